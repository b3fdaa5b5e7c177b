"""Votes are stored at once, each once, by any number of threads and processes."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from seqgan_hf.votes import Vote, Votes, name_of_judge, read_votes

MODULE = Path(__file__).parent.parent / "seqgan_hf" / "votes.py"


@pytest.fixture
def votes(tmp_path):
    with Votes(tmp_path / "votes.sqlite") as votes:
        yield votes


def test_a_vote_is_on_disk_when_it_is_answered(votes):
    assert votes.cast("ann", "x", True).result() == {"x": True}
    with sqlite3.connect(votes.path) as other:
        assert other.execute("SELECT judge, item, judged_real FROM votes").fetchall() == [("ann", "x", 1)]
        assert other.execute("SELECT name FROM judges").fetchall() == [("ann",)]
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_vote_that_comes_again_is_the_same_vote(votes):
    votes.cast("ann", "x", True).result()
    assert votes.cast("ann", "x", False).result() == {"x": True}
    assert votes.cast("bob", "x", False).result() == {"x": False}
    assert [vote[:3] for vote in votes.all()] == [("ann", "x", True), ("bob", "x", False)]


def test_threads_and_two_objects_lose_nothing(votes):
    with Votes(votes.path) as others:

        def judge(name, through):
            for item in range(40):
                through.cast(name, str(item), item % 3 == 0).result()

        threads = [threading.Thread(target=judge, args=(f"judge {n}", (votes, others)[n % 2])) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    cast = {vote[:3] for vote in votes.all()}
    assert cast == {(f"judge {n}", str(item), item % 3 == 0) for n in range(8) for item in range(40)}
    assert len(votes.all()) == 320


def test_what_was_answered_before_the_process_was_killed_is_there(tmp_path):
    script = (
        f"import importlib.util, sys; spec = importlib.util.spec_from_file_location('votes', {str(MODULE)!r})\n"
        "module = importlib.util.module_from_spec(spec); sys.modules['votes'] = module\n"
        "spec.loader.exec_module(module); votes = module.Votes('votes.sqlite')\n"
        "for item in range(100_000): votes.cast('ann', str(item), True).result(); print(item, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    answered = [process.stdout.readline().strip() for _ in range(50)]
    os.kill(process.pid, signal.SIGKILL)
    answered += process.communicate()[0].split()
    with Votes(tmp_path / "votes.sqlite") as votes:
        stored = [vote.item for vote in votes.all()]
    assert stored[: len(answered)] == answered and len(stored) <= len(answered) + 1


def test_votes_are_written_as_csv_and_read_again(votes, tmp_path):
    votes.cast("ann", "x", True).result()
    votes.cast("ann", 'a "b", c', False).result()
    table = votes.as_csv()
    assert re.fullmatch(r'judge,item,judged_real,seconds\nann,x,1,\d+\.\d{3}\nann,"a ""b"", c",0,\d+\.\d{3}\n', table)
    with Votes(tmp_path / "other.sqlite") as other:
        assert other.add(read_votes(table)) == 2
        assert other.add(read_votes(table)) == 0, "each vote is counted once"
        assert other.as_csv() == table
        other.cast("bob", "x", True).result()
        assert votes.add(other.all()) == 1


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            "",
            "Votes must have the columns judge, item, judged_real, seconds; item, judge, judged_real, seconds missing.",
        ),
        (
            "judge,item,seconds\n",
            "Votes must have the columns judge, item, judged_real, seconds; judged_real missing.",
        ),
        ("judge,item,judged_real,seconds\na,b,yes,1\n", "Vote 1 must have 0 or 1 as `judged_real`"),
        ("judge,item,judged_real,seconds\na,b,1,1\na,b,1,soon\n", "Vote 2 must have 0 or 1 as `judged_real`"),
        ("judge,item,judged_real,seconds\na,b\n", "Vote 1 must have 0 or 1 as `judged_real`"),
    ],
)
def test_what_are_no_votes_is_refused(table, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read_votes(table)


def test_files_that_hold_no_votes_are_refused(tmp_path):
    (tmp_path / "text").write_text("no database, but a text that is long enough to be read as one " * 20)
    with pytest.raises(ValueError, match=r"text is no file of votes: file is not a database\. Choose another folder"):
        Votes(tmp_path / "text")
    with pytest.raises(OSError, match="unable to open database file"):
        Votes(tmp_path / "missing" / "votes.sqlite")


def test_a_vote_that_cannot_be_stored_is_no_vote(votes):
    with sqlite3.connect(votes.path) as other:
        other.execute("DROP TABLE votes")
    with pytest.raises(OSError, match=r"The votes could not be stored: no such table: votes\."):
        votes.cast("ann", "x", True).result()
    assert "no such table" in str(votes.of_judge("ann").exception())


def test_the_name_of_a_judge_does_not_tell_his_token():
    assert name_of_judge("token") == "3c469e9d6c5875d3" != name_of_judge("tokem")


def test_rows_of_votes():
    assert Vote("a", "b", True, 1.5).cells() == ("a", "b", 1, "1.500")
