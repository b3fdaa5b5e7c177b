"""Sample completions: kept once for each step, whole, and shown by every tracker that is named."""

import importlib.util
import json
import os
import sqlite3
import struct
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet
import pytest
from datasets import load_dataset
from test_trainer import config, play, texts
from transformers import TrainerState

from seqgan_hf import SeqGANTrainer
from seqgan_hf.callbacks import CompletionsCallback, WarningsCallback, markdown_table, write_completions

COLUMNS = ["step", "prompt", "completion", "score"]
ROW = {"step": 3, "prompt": "we", "completion": "work", "score": 0.25}


def kept(folder):
    return {path.name: pyarrow.parquet.read_table(path).to_pylist() for path in folder.glob("*.parquet")}


def log_step(folder, step, logs=None, **state):
    """Log a step of a game that has one sample; return the steps that were shown."""
    shown = []
    samples = [{name: value for name, value in ROW.items() if name != "step"}]
    game = SimpleNamespace(sample_texts=samples, callback_handler=SimpleNamespace(callbacks=[]))
    callback = CompletionsCallback(game, lambda samples, step: shown.append(step))
    callback.on_log(
        SimpleNamespace(output_dir=str(folder)), TrainerState(global_step=step, **state), None, logs or {"loss": 0.0}
    )
    return shown


def test_completions_are_kept_at_each_log_and_read_as_a_dataset(tiny_model, tmp_path, capsys):
    args = config(tmp_path, max_steps=4, logging_steps=2, log_completions=True, num_completions_to_log=3)
    trainer = play(tiny_model("lstm"), tiny_model("cnn"), args)
    folder = Path(args.output_dir) / "completions"
    assert sorted(path.name for path in folder.iterdir()) == ["completions_00002.parquet", "completions_00004.parquet"]
    rows = load_dataset(
        "parquet", data_files=str(folder / "*.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert rows.column_names == COLUMNS
    assert rows["step"][:] == [2, 2, 2, 4, 4, 4]
    assert rows[3:]["completion"] == [sample["completion"] for sample in trainer.sample_texts]
    assert all(0 <= score <= 1 for score in rows["score"])
    assert capsys.readouterr().out.count("P(real)") == 2


def test_a_resumed_run_replaces_the_completions_of_the_steps_that_it_repeats(tmp_path):
    """They were appended to one file, and stood there twice."""
    for run in ([1, 2], [2, 3]):  # killed after step 2, and resumed after step 1
        for step in run:
            log_step(tmp_path, step)
    assert kept(tmp_path / "completions") == {
        f"completions_0000{step}.parquet": [{**ROW, "step": step}] for step in (1, 2, 3)
    }


def test_a_file_of_completions_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "completions" / "completions_00003.parquet"
    write_completions([ROW], path)

    def killed(table, where):
        Path(where).write_bytes(b"PAR1 and no more")
        raise KeyboardInterrupt

    monkeypatch.setattr(pyarrow.parquet, "write_table", killed)
    with pytest.raises(KeyboardInterrupt):
        write_completions([ROW, ROW], path)
    assert kept(path.parent) == {path.name: [ROW]}


@pytest.mark.parametrize("first", [True, False])
def test_only_the_first_process_shows_and_keeps_completions(first, tmp_path):
    assert log_step(tmp_path, 3, is_world_process_zero=first) == [3] * first
    assert len(kept(tmp_path / "completions")) == first


def test_a_log_of_an_evaluation_shows_and_keeps_none(tmp_path):
    assert log_step(tmp_path, 3, logs={"eval_nll": 1.0}) == []
    assert not kept(tmp_path / "completions")


# ---- Trackers ------------------------------------------------------------------------------------------------------

GAME = """
import pathlib, sys
from conftest import DISCRIMINATORS, GENERATORS
from test_trainer import config, play, texts

folder, *trackers = sys.argv[1:]
args = config(pathlib.Path(folder), max_steps=2, log_completions=True, report_to=trackers, num_completions_to_log=2)
play(GENERATORS["lstm"](), DISCRIMINATORS["cnn"](), args)
"""


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """Play a game in a process of its own (trackers leave threads behind), with all trackers that are installed."""
    folder = tmp_path_factory.mktemp("tracked")
    available = [name for name in ("tensorboard", "trackio", "wandb") if importlib.util.find_spec(name)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",  # waiting threads of torch would take the time of other processes
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_DIR": str(folder),
        "TRACKIO_DIR": str(folder / "trackio"),
        "TENSORBOARD_LOGGING_DIR": str(folder / "tensorboard"),
    }
    subprocess.run([sys.executable, "-c", GAME, str(folder), *available], env=environment, cwd=folder, check=True)
    return SimpleNamespace(folder=folder, rows=kept(folder / "run" / "completions"))


def rows_at(tracked, step):
    return [list(row.values()) for row in tracked.rows[f"completions_{step:05d}.parquet"]]


class Cells(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.rows = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "br":
            self.rows[-1][-1] += "\n"

    def handle_data(self, data):
        if self.rows and self.rows[-1] and data.strip("\n"):
            self.rows[-1][-1] += data


def test_a_markdown_table_by_hand():
    table = markdown_table(["completion", "score"], [["a | b\n*c*", 0.25]])
    assert table == "| completion | score |\n| --- | --- |\n| a &#124; b<br>&#42;c&#42; | 0.250 |"


def test_tensorboard_renders_every_cell_as_it_is():
    plugin = pytest.importorskip("tensorboard.plugin_util")
    cells = [
        "a | b", "two\nlines", "*bold* _i_ `code`", "<b>&lt;</b> & <script>x</script>", "[a](http://b) ![c](d)",
        "\\* \\| \\\\", "# - + 1.", "http://a.b <me@b.c>", "~~~ ``` ---", "&#124; &amp;",
    ]  # fmt: skip
    html = plugin.markdown_to_safe_html(markdown_table(["completion", "n"], [[cell, 1] for cell in cells]))
    assert Cells(html).rows == [["completion", "n"], *([cell, "1"] for cell in cells)]


def test_tensorboard_gets_a_table_at_each_log(tracked):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tracked.folder / "tensorboard"))
    events.Reload()
    logged = {
        event.step: event.tensor_proto.string_val[0].decode() for event in events.Tensors("completions/text_summary")
    }
    assert logged == {step: markdown_table(COLUMNS, rows_at(tracked, step)) for step in (1, 2)}
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2]


def wandb_history(path):
    """Read a file of an offline run: LevelDB's log format behind 7 bytes of its own."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        record, at = record + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # whole, or the last part
            items = Record.FromString(record).history.item
            yield {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
            record = b""


def test_wandb_gets_a_table_at_each_log_on_the_axis_of_the_loss(tracked):
    pytest.importorskip("wandb")
    (run,) = (tracked.folder / "wandb").glob("offline-run-*")
    (path,) = run.glob("*.wandb")
    tables = {
        entry["train/global_step"]: json.loads((run / "files" / entry["completions/path"]).read_text())
        for entry in wandb_history(path)
        if "completions/path" in entry
    }
    assert tables == {step: {"columns": COLUMNS, "data": rows_at(tracked, step)} for step in (1, 2)}


def test_trackio_gets_a_table_at_each_log_on_the_axis_of_the_loss(tracked):
    pytest.importorskip("trackio")
    with sqlite3.connect(tracked.folder / "trackio" / "huggingface.db") as database:
        entries = [json.loads(text) for (text,) in database.execute("SELECT metrics FROM metrics")]
    tables = {
        entry["train/global_step"]: [list(row.values()) for row in entry["completions"]["_value"]]
        for entry in entries
        if "completions" in entry
    }
    assert tables == {step: rows_at(tracked, step) for step in (1, 2)}


def warnings_of(caplog, logs, **state):
    """Log a run's steps, and return what was warned of."""
    callback, history = WarningsCallback(), []
    for step, log in enumerate(logs, start=1):
        history.append(log)
        callback.on_log(
            SimpleNamespace(reward="logit"), TrainerState(global_step=step, log_history=history, **state), None, log
        )
    return caplog.messages


def test_a_collapse_is_warned_of_once(caplog):
    (warning,) = warnings_of(caplog, [{"entropy": value} for value in (3.0, 0.31, 0.29, 0.1)])
    assert warning.startswith("Step 3: the generator's entropy is 0.29 nats a token, and was 3: it writes the same")


def test_a_discriminator_that_is_always_right_is_warned_of_once(caplog):
    (warning,) = warnings_of(caplog, [{"discriminator/held_out_accuracy": value} for value in (0.98, 0.995, 1.0)])
    assert warning.startswith("Step 2: the discriminator is right on 99.5% of unseen texts. Look at")


def test_a_game_that_goes_well_is_not_warned_of_nor_by_other_processes(caplog):
    logs = [{"entropy": 3.0, "discriminator/held_out_accuracy": 0.7}, {"entropy": 2.0}, {"eval_nll": 1.0}]
    assert warnings_of(caplog, logs) == []
    logs = [{"entropy": 3.0}, {"entropy": 0.1, "discriminator/held_out_accuracy": 1.0}]
    assert warnings_of(caplog, logs, is_world_process_zero=False) == []


def test_the_trainer_warns_of_what_it_logs(tiny_model, tmp_path, caplog):
    trainer = SeqGANTrainer(tiny_model("lstm"), tiny_model("cnn"), config(tmp_path), train_dataset=texts())
    trainer.discriminator.evaluate = lambda real, generated: {"accuracy": 1.0, "auc": 1.0}
    trainer.train()
    assert "Step 1: the discriminator is right on 100.0% of unseen texts" in caplog.text
