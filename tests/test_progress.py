"""What a person sees: the display at the foot of a terminal, what scrolls by above it, and tqdm's bars elsewhere."""

import io
import logging
import os
import re
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch
from test_trainer import config, texts
from tqdm.auto import tqdm
from transformers import ProgressCallback, TrainerState

import seqgan_hf.progress
from seqgan_hf import SeqGANTrainer
from seqgan_hf.metering import Meter
from seqgan_hf.progress import (
    RichProgressCallback,
    Stopwatch,
    TqdmDisplay,
    choose_display,
    completions_table,
    headlines,
)

SAMPLES = [{"prompt": "we", "completion": "work\n for\x1b[2J the town", "score": 0.25}]


def screen(output):
    """Play terminal output on an endless screen: the lines that a person sees at the end."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", output):
        if part == "\r":
            column = 0
        elif part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row == len(lines))
        elif part.startswith("\x1b"):
            row -= int(part[2:-1] or 1) if part.endswith("A") else 0
            lines[row] = "" if part == "\x1b[2K" else lines[row]
        else:
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines]


@pytest.fixture
def terminal():
    """Return the output of a terminal as a file, and a display that draws there."""
    console = pytest.importorskip("rich.console").Console
    file = io.StringIO()
    display = RichProgressCallback(console(file=file, force_terminal=True, width=100, height=50, color_system=None))
    yield file, display
    display.close()


def begin(display, max_steps=8, generator_steps=2):
    state = TrainerState(max_steps=max_steps)
    display.on_train_begin(SimpleNamespace(generator_steps=generator_steps), state, None)
    return state


def play_on(display, monkeypatch, generator, judge, args, **kwargs):
    monkeypatch.setattr("seqgan_hf.trainer.choose_display", lambda args: display)
    return SeqGANTrainer(generator, judge, args, train_dataset=texts(), **kwargs)


# ---- Time ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock():
    """Return a namespace whose `time` passes by hand."""
    return SimpleNamespace(time=100.0)


def stopwatch(clock, window=2):
    return Stopwatch(window, now=lambda: clock.time)


def test_a_phase_inside_another_has_a_share_of_its_own(clock):
    watch = stopwatch(clock)
    for phase, seconds in (("rollout", 1), ("score", 2), ("rollout", 3), (None, 2)):
        watch.enter(phase)
        clock.time += seconds
    assert watch.shares() == {"rollout": 0.5, "score": 0.25, None: 0.25}
    assert watch.elapsed == 8


def test_time_left_is_that_of_the_last_updates_without_the_warmup(clock):
    watch = stopwatch(clock)
    watch.enter("warmup")
    clock.time += 1000
    for done, seconds in ((0, 50), (1, 4), (2, 6)):
        watch.begin_update(done)
        assert watch.seconds_left(10) == {0: None, 1: 9 * 50, 2: 8 * 27}[done]
        clock.time += seconds
    watch.begin_update(3)
    assert watch.seconds_left(10) == 7 * 5  # of two updates, not of the first
    clock.time += 2
    assert watch.seconds_left(10) == 7 * 5 - 2
    clock.time += 100
    assert watch.seconds_left(10) == 0


def test_each_update_bears_its_part_of_the_evaluations(clock):
    watch = stopwatch(clock)
    for done in range(5):
        if done in (0, 4):  # the first is before the game
            watch.enter("evaluate")
            clock.time += 20
            watch.enter(None)
        watch.begin_update(done)
        clock.time += 1
    assert watch.seconds_left(6) == 2 * (1 + 20 / 4) - 1


# ---- What is shown -------------------------------------------------------------------------------------------------


def test_headlines_are_the_few_values_that_a_person_watches():
    log = {
        "loss": 1.0, "grad_norm": 2.0, "reward/mean": 3.0, "entropy": 4.0, "discriminator/held_out_auc": 5.0,
        "seconds/rollout": 6.0, "seconds/score": 0.5, "seconds/evaluate": 7.0, "epoch": 0.1,
    }  # fmt: skip
    assert headlines(log) == {
        "loss": 1.0, "reward/mean": 3.0, "entropy": 4.0, "discriminator/held_out_auc": 5.0, "seconds per update": 6.5,
    }  # fmt: skip
    assert headlines({"eval_nll": 1.0, "eval_news_nll": 2.0, "eval_runtime": 3.0}) == {
        "eval_nll": 1.0, "eval_news_nll": 2.0,
    }  # fmt: skip
    assert headlines({"warmup_discriminator/held_out_auc": 0.9, "warmup_seconds/warmup": 2.0}) == {
        "discriminator/held_out_auc": 0.9
    }
    assert headlines({"mine": 1, "text": "no", "total_flos": 0}) == {"mine": 1}


def test_completions_are_cut_to_a_line_without_signs_that_a_terminal_obeys():
    header, line = completions_table(SAMPLES, step=10, width=15).splitlines()
    assert header == "step 10  P(real)  completion"
    assert line == "           0.250  we work for\N{REPLACEMENT CHARACTER}..."


def test_the_display_tells_updates_round_phase_shares_and_the_loop_within(terminal):
    file, display = terminal
    state = begin(display)
    with pytest.raises(StopIteration):
        sets = display.track(3, "Discriminator warm-up", "set")
        next(sets), next(sets)
        display._live.refresh()
        assert re.search(r"0/8 updates \d\d:\d\d elapsed", screen(file.getvalue())[0])
        assert re.search("Discriminator warm-up .* 1/3 sets$", screen(file.getvalue())[-1])
        next(sets), next(sets)
    for done in range(3):
        state.global_step = done
        display.on_step_begin(None, state, None)
    display.enter("rollout")
    display._live.refresh()
    lines = screen(file.getvalue())
    assert re.fullmatch(r"G \S+ +2/8 updates round 2/4 \d\d:\d\d elapsed \d\d:\d\d left", lines[0])
    assert re.fullmatch(r"> rollout \d+% +other \d+%", lines[1])
    display.on_prediction_step(None, state, None, eval_dataloader=[1, 2])
    display._live.refresh()
    assert re.search("evaluation .* 1/2 batches$", screen(file.getvalue())[-1])


def test_what_is_written_in_training_scrolls_by_above_the_display(terminal, capsys):
    file, display = terminal
    handler = logging.StreamHandler()  # keeps the stream of now, as that of transformers does
    logging.getLogger("a_library").addHandler(handler)
    stream = handler.stream
    state = begin(display)
    display.on_log(None, state, None, logs={"loss": 0.5, "grad_norm": 1.0})
    display.show_completions([*SAMPLES, {"prompt": "", "completion": "the town " * 99, "score": 1.0}], step=0)
    print("[bold]printed")
    logging.getLogger("a_library").warning("warned")
    for _ in tqdm(range(3), desc="shards", mininterval=0):
        display._live.refresh()
    sys.stderr.write("unfinished")
    display.close()
    logging.getLogger("a_library").removeHandler(handler)
    lines = screen(file.getvalue())
    assert lines[:2] == ["step 0  loss 0.5", "P(real)  completion"]
    assert lines[2] == "  0.250  we work for\N{REPLACEMENT CHARACTER}[2J the town"
    assert re.fullmatch("  1.000  (the town )+[a-z ]*…", lines[3])
    assert lines[4:6] == ["[bold]printed", "warned"]
    assert lines[6].startswith("shards: 100%")
    assert lines[7] == "unfinished"
    assert lines[8].startswith("G ") and lines[9].startswith("> other") and lines[10:] == [""]
    assert handler.stream is stream and capsys.readouterr() == ("", "")


def test_a_game_on_the_display_logs_all_that_it_logs_elsewhere(terminal, monkeypatch, tiny_model, tmp_path):
    file, display = terminal
    args = config(tmp_path, max_steps=2, log_completions=True, disable_tqdm=False, eval_strategy="steps", eval_steps=2)
    trainer = play_on(display, monkeypatch, tiny_model("lstm"), tiny_model("cnn"), args, eval_dataset=texts(count=4))
    trainer.train()
    assert not any(isinstance(callback, ProgressCallback) for callback in trainer.callback_handler.callbacks)
    lines = screen(file.getvalue())
    (log, _) = (entry for entry in trainer.state.log_history if "loss" in entry)
    assert {"grad_norm", "policy_loss", "discriminator/loss", "seconds/rollout"} <= set(log)
    starts = [line.split()[:2] for line in lines if line and not line.startswith(" ")]
    shown = [start for start in starts if start[0] in ("warm-up", "step", "P(real)", "G")]
    assert shown[0][0] == "warm-up" and [start[0] for start in shown].count("G") == 1
    assert ["step", "1"] in shown and shown.count(["P(real)", "completion"]) == 2
    assert any("eval_nll" in line for line in lines) and not any("grad_norm" in line for line in lines)
    assert any("2/2 updates round 2/2" in line for line in lines)
    phases = ("warmup", "generate", "rollout", "score", "generator", "discriminator", "evaluate")
    assert all(re.search(rf" {phase} \d+%", "\n".join(lines)) for phase in phases)


def test_an_evaluation_outside_of_training_gives_the_terminal_back(terminal, monkeypatch, tiny_model, tmp_path):
    file, display = terminal
    trainer = play_on(
        display, monkeypatch, tiny_model("lstm"), tiny_model("cnn"), config(tmp_path, disable_tqdm=False),
        eval_dataset=texts(count=4),
    )  # fmt: skip
    streams = sys.stdout, sys.stderr
    trainer.evaluate()
    assert re.search(r"evaluation .* 1/1 batches", "\n".join(screen(file.getvalue())))
    assert (sys.stdout, sys.stderr) == streams
    with torch.no_grad():
        trainer.model.lm_head.bias.fill_(float("nan"))
    monkeypatch.setattr(trainer, "compute_metrics", lambda prediction: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.evaluate()
    assert (sys.stdout, sys.stderr) == streams


# ---- Where it is shown ---------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_display_without_rich_names_the_extra(monkeypatch):
    monkeypatch.setattr(seqgan_hf.progress, "is_rich_available", lambda: False)
    with pytest.raises(ImportError, match=re.escape("pip install 'seqgan_hf[rich]'")):
        RichProgressCallback()


@pytest.mark.parametrize(
    ("output", "settings", "rich", "expected"),
    [
        (Terminal, {}, True, RichProgressCallback),
        (io.StringIO, {}, True, TqdmDisplay),
        (Terminal, {}, False, TqdmDisplay),
        (Terminal, {"disable_tqdm": True}, True, TqdmDisplay),
        (Terminal, {"process_index": 1}, True, TqdmDisplay),
        (Terminal, {"TERM": "dumb"}, True, TqdmDisplay),
    ],
    ids=["terminal", "pipe", "no rich", "disabled", "second process", "dumb"],
)
def test_rich_is_for_a_terminal_and_tqdm_for_the_rest(output, settings, rich, expected, monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setattr(sys, "stdout", output())
    monkeypatch.setattr(sys, "stderr", output())
    monkeypatch.setattr(seqgan_hf.progress, "is_rich_available", lambda: rich)
    monkeypatch.setenv("TERM", settings.pop("TERM", "xterm"))
    args = SimpleNamespace(**{"disable_tqdm": False, "process_index": 0, **settings})
    assert type(choose_display(args)) is expected


def test_in_a_pipe_the_warmup_has_a_bar(tiny_model, tmp_path, capsys):
    args = config(tmp_path, disable_tqdm=False)
    SeqGANTrainer(tiny_model("lstm"), tiny_model("cnn"), args, train_dataset=texts()).train()
    assert "Discriminator warm-up: 100%" in capsys.readouterr().err


def test_bars_that_are_disabled_count_in_silence(capsys):
    assert list(TqdmDisplay(disable=True).track(3, "Discriminator warm-up", "set")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


# ---- Given back, whatever happens ----------------------------------------------------------------------------------

GAME = """
import logging, pathlib, signal, sys, threading
from conftest import DISCRIMINATORS, GENERATORS
from test_trainer import config, texts
from seqgan_hf import SeqGANTrainer, interruption

interruption._PATIENCE = 0  # seconds in which a second signal would be taken for the first
args = config(pathlib.Path(sys.argv[1]), max_steps=3, disable_tqdm=False, discriminator_warmup_steps=3)
trainer = SeqGANTrainer(GENERATORS["lstm"](), DISCRIMINATORS["cnn"](), args, train_dataset=texts())
streams = sys.stdout, sys.stderr
score, calls = trainer._score, 0

def fail(batch):
    assert type(sys.stdout).__name__ == "FileProxy" and threading.active_count() > threads
    if trainer.state.global_step == 1:
        1 / 0 if event == "error" else signal.raise_signal(signal.SIGINT)
    return score(batch)

trainer._score = fail
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
threads = threading.active_count()
for event in ("error", "interrupt"):
    try:
        trainer.train()
    except (ZeroDivisionError, KeyboardInterrupt) as error:
        print(event, type(error).__name__, (sys.stdout, sys.stderr) == streams)
print("imported", *sorted({"tensorboard", "trackio", "wandb"} & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def pseudo_terminal(tmp_path_factory):
    """Return what a terminal gets of a game that fails in the middle, and then of one that is interrupted there."""
    pty = pytest.importorskip("pty")
    pytest.importorskip("rich")
    main, other = pty.openpty()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TERM": "xterm",
        "COLUMNS": "120",
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", GAME, str(tmp_path_factory.mktemp("game"))],
        stdin=other, stdout=other, stderr=other, env=environment,
    )  # fmt: skip
    os.close(other)
    chunks = []

    def read():
        try:
            while chunk := os.read(main, 4096):
                chunks.append(chunk)
        except OSError:  # Linux: the other end is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    code = process.wait(timeout=120)
    reader.join()
    os.close(main)
    output = b"".join(chunks).decode()
    assert code == 0, output
    return output


@pytest.mark.parametrize(("event", "error"), [("error", "ZeroDivisionError"), ("interrupt", "KeyboardInterrupt")])
def test_a_game_that_fails_gives_the_terminal_back(event, error, pseudo_terminal):
    lines = screen(pseudo_terminal)
    assert f"{event} {error} True" in lines
    above = lines[: lines.index(f"{event} {error} True")]
    assert above[-2].startswith("G ") and " 1/3 updates round 2/3 " in above[-2]  # what was on it stays
    assert "  warmup " in above[-1] and "> other" in above[-1]
    assert sum(line.startswith("G ") for line in lines) == 2


def test_the_cursor_is_shown_also_while_the_display_is_open(pseudo_terminal):
    """A process that runs out of memory is killed, and cannot show it again."""
    assert pseudo_terminal.count("\x1b[?25l") == 2
    assert all(part.startswith("\x1b[?25h") for part in pseudo_terminal.split("\x1b[?25l")[1:])


def test_a_tracker_that_is_not_named_is_not_imported(pseudo_terminal):
    assert screen(pseudo_terminal)[-2] == "imported"


def test_a_display_listens_to_a_meter(terminal):
    _, display = terminal
    begin(display)
    meter = Meter()
    meter.listener = display.enter
    with meter.phase("rollout"), meter.phase("score"):
        pass
    assert list(display._stopwatch.shares()) == ["rollout", "score", None]
