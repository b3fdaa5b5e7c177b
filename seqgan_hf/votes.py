"""Votes, in a file of SQLite: each is on disk before its judge hears so, and is counted once however often it is sent."""

import contextlib
import csv
import hashlib
import io
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

VOTES_FILE = "votes.sqlite"
_TABLES = """
CREATE TABLE IF NOT EXISTS judges (name TEXT PRIMARY KEY, since REAL NOT NULL);
CREATE TABLE IF NOT EXISTS votes (
    judge TEXT NOT NULL REFERENCES judges (name), item TEXT NOT NULL, judged_real INTEGER NOT NULL,
    seconds REAL NOT NULL, UNIQUE (judge, item)
);
"""
_MOST_AT_ONCE = 256


class Vote(NamedTuple):
    """What a judge said of an item, and when, in seconds since 1970."""

    judge: str
    item: str
    judged_real: bool
    seconds: float

    def cells(self) -> tuple[str, str, int, str]:
        """Return the row of a CSV."""
        return self.judge, self.item, int(self.judged_real), f"{self.seconds:.3f}"


def name_of_judge(token: str) -> str:
    """Return the name under which a judge's votes are kept. It does not tell the token by which that judge votes."""
    return hashlib.sha256(token.encode()).hexdigest()[:16]


def read_votes(text: str) -> list[Vote]:
    """
    Read votes from CSV.

    Args:
        text (`str`): From [`Votes.as_csv`]; columns more than its are not read.

    Returns:
        `list[Vote]`

    Raises:
        ValueError: If a column is missing, or a value is none of its kind.
    """
    rows = csv.DictReader(io.StringIO(text))
    missing = set(Vote._fields) - set(rows.fieldnames or ())
    if missing:
        raise ValueError(
            f"Votes must have the columns {', '.join(Vote._fields)}; {', '.join(sorted(missing))} missing."
        )
    votes = []
    for number, row in enumerate(rows, start=1):
        try:
            vote = Vote(row["judge"], row["item"], {"0": False, "1": True}[row["judged_real"]], float(row["seconds"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"Vote {number} must have 0 or 1 as `judged_real` and a number as `seconds`; got {row}. Mend it, or "
                "export the votes again."
            ) from error
        votes.append(vote)
    return votes


class Votes:
    """
    The votes of a trial.

    One thread has the file, and commits all votes that have come while it committed the last ones as one: that is what
    lets hundreds of judges wait for the disk at once. Several processes may have the file, and any number of threads
    this object.

    Args:
        path (`str` or `Path`): The file, which is made if missing.

    Raises:
        ValueError: If it is no file of votes.
        OSError: If it cannot be opened.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._jobs: queue.SimpleQueue[tuple[Callable[[sqlite3.Connection], Any], Future] | None] = queue.SimpleQueue()
        opened: Future = Future()
        self._thread = threading.Thread(target=self._work, args=(opened,), name="votes", daemon=True)
        self._thread.start()
        opened.result()

    def __enter__(self) -> "Votes":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish what was begun, and close the file."""
        self._jobs.put(None)
        self._thread.join()

    def cast(self, judge: str, item: str, judged_real: bool) -> "Future[dict[str, bool]]":
        """
        Store a vote. Of a judge's votes on an item the first one stays.

        Args:
            judge (`str`): The judge's name.
            item (`str`): The item's id.
            judged_real (`bool`): The vote.

        Returns:
            `Future`: done when the vote is on disk; what it gives is that of [`of_judge`].
        """
        now = time.time()

        def store(connection: sqlite3.Connection) -> dict[str, bool]:
            connection.execute("INSERT OR IGNORE INTO judges VALUES (?, ?)", (judge, now))
            connection.execute("INSERT OR IGNORE INTO votes VALUES (?, ?, ?, ?)", (judge, item, judged_real, now))
            return _of_judge(connection, judge)

        return self._do(store)

    def of_judge(self, judge: str) -> "Future[dict[str, bool]]":
        """Return, as a `Future`, what a judge has said: by item, whether it was judged real."""
        return self._do(lambda connection: _of_judge(connection, judge))

    def all(self) -> list[Vote]:
        """Return all votes in the order in which they came."""
        found = self._do(lambda connection: connection.execute("SELECT * FROM votes ORDER BY rowid").fetchall())
        return [Vote(judge, item, bool(real), seconds) for judge, item, real, seconds in found.result()]

    def as_csv(self) -> str:
        """Return all votes as CSV with a header: judge, item, judged_real (0 or 1), seconds since 1970."""
        written = io.StringIO()
        writer = csv.writer(written, lineterminator="\n")
        writer.writerow(Vote._fields)
        writer.writerows(vote.cells() for vote in self.all())
        return written.getvalue()

    def add(self, votes: Sequence[Vote]) -> int:
        """
        Add votes that were given elsewhere, such as on a Space. Those that are here already are not added again.

        Args:
            votes (`Sequence[Vote]`): From [`read_votes`].

        Returns:
            `int`: how many are new.
        """

        def store(connection: sqlite3.Connection) -> int:
            judges = [(vote.judge, vote.seconds) for vote in votes]
            connection.executemany("INSERT OR IGNORE INTO judges VALUES (?, ?)", judges)
            return connection.executemany("INSERT OR IGNORE INTO votes VALUES (?, ?, ?, ?)", votes).rowcount

        return self._do(store).result() if votes else 0

    def _do(self, job: Callable[[sqlite3.Connection], Any]) -> Future:
        future: Future = Future()
        future.set_running_or_notify_cancel()  # from here on nobody can cancel it, such as a judge who has gone
        self._jobs.put((job, future))
        return future

    def _work(self, opened: Future) -> None:
        try:
            connection = _open(self.path)
        except (sqlite3.Error, ValueError) as error:
            opened.set_exception(error if isinstance(error, ValueError) else OSError(f"{self.path}: {error}."))
            return
        opened.set_result(None)
        with contextlib.closing(connection):
            while (first := self._jobs.get()) is not None:
                is_last = _commit_together(connection, [first, *self._waiting()])
                if is_last:
                    return

    def _waiting(self) -> Iterator[tuple[Callable[[sqlite3.Connection], Any], Future] | None]:
        for _ in range(_MOST_AT_ONCE):
            try:
                yield self._jobs.get_nowait()
            except queue.Empty:
                return


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        # A commit is on disk when it returns, whatever happens to the power.
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(_TABLES)
    except sqlite3.DatabaseError as error:
        connection.close()
        if isinstance(error, sqlite3.OperationalError):
            raise
        raise ValueError(f"{path} is no file of votes: {error}. Choose another folder, or remove it.") from error
    return connection


def _of_judge(connection: sqlite3.Connection, judge: str) -> dict[str, bool]:
    found = connection.execute("SELECT item, judged_real FROM votes WHERE judge = ? ORDER BY rowid", (judge,))
    return {item: bool(real) for item, real in found}


def _commit_together(
    connection: sqlite3.Connection, jobs: list[tuple[Callable[[sqlite3.Connection], Any], Future] | None]
) -> bool:
    """Do some jobs in one transaction, tell their results once it is on disk, and return whether there comes no more."""
    work = [job for job in jobs if job is not None]
    try:
        connection.execute("BEGIN IMMEDIATE")
        results = [job(connection) for job, _ in work]
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        for _, future in work:
            future.set_exception(OSError(f"The votes could not be stored: {error}."))
    else:
        for (_, future), result in zip(work, results, strict=True):
            future.set_result(result)
    return len(work) < len(jobs)
