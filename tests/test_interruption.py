"""After Ctrl-C or SIGTERM a run saves, ends, and goes on later as if nothing had happened."""

import os
import signal

import pytest
from test_trainer import config, moved, texts, weights
from transformers import TrainerCallback

from seqgan_hf import SeqGANTrainer
from seqgan_hf.checkpoints import checkpoints_in
from seqgan_hf.interruption import SIGNALS, Interrupted


@pytest.fixture(autouse=True)
def ctrl_c_is_heard():
    """A job in the background of a script has SIGINT ignored, and so would tests that it runs."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class SignalAt(TrainerCallback):
    def __init__(self, number, step):
        self.number, self.step = number, step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)
            os.kill(os.getpid(), self.number)  # as by a scheduler and by a launcher


def trainer(tiny_model, tmp_path, run, callbacks=None, **settings):
    settings = {"output_dir": str(tmp_path / run), "max_steps": 4} | settings
    return SeqGANTrainer(
        tiny_model("lstm"), tiny_model("cnn"), config(tmp_path, **settings), train_dataset=texts(), callbacks=callbacks
    )


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_saves_and_ends_the_run_which_goes_on_exactly(number, tiny_model, tmp_path, caplog, capfd):
    whole = trainer(tiny_model, tmp_path, "whole")
    whole.train()
    before, sent = [signal.getsignal(each) for each in SIGNALS], SignalAt(number, step=1)
    stopped = trainer(tiny_model, tmp_path, "stopped", [sent])
    with pytest.raises(Interrupted) as error:
        stopped.train()
    assert error.value.code == 128 + number
    said = "finishing this update, then saving. Another one, 5 seconds later, ends at once."
    assert capfd.readouterr().err.count(said) == 1
    assert f"Stopped after update 2, which is saved as a checkpoint in {tmp_path / 'stopped'}." in caplog.text
    assert [signal.getsignal(each) for each in SIGNALS] == before
    assert [path.name for path in checkpoints_in(tmp_path / "stopped")] == ["checkpoint-2"]
    again = trainer(tiny_model, tmp_path, "stopped")
    again.train(resume_from_checkpoint=True)
    assert not moved(weights(whole.model), again.model)
    assert not moved(weights(whole.discriminator.model), again.discriminator.model)


def test_a_signal_seconds_after_the_first_ends_at_once(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("seqgan_hf.interruption._PATIENCE", 0)
    stopped = trainer(tiny_model, tmp_path, "stopped", [SignalAt(signal.SIGINT, step=1)])
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    assert checkpoints_in(tmp_path / "stopped") == []


def test_a_signal_in_the_warm_up_ends_it_between_sets(tiny_model, tmp_path, caplog):
    stopped = trainer(tiny_model, tmp_path, "stopped", discriminator_warmup_steps=3)
    learn, sets = stopped._train_discriminator_on_fresh_set, []

    def learn_and_be_stopped(game_round):
        sets.append(learn(game_round))
        os.kill(os.getpid(), signal.SIGTERM)

    stopped._train_discriminator_on_fresh_set = learn_and_be_stopped
    with pytest.raises(Interrupted):
        stopped.train()
    assert len(sets) == 1 and "there is nothing to go on from" in caplog.text


def test_a_run_that_nothing_interrupts_ends_as_ever(tiny_model, tmp_path):
    before = [signal.getsignal(each) for each in SIGNALS]
    finished = trainer(tiny_model, tmp_path, "finished", max_steps=1)
    finished.train()
    assert [signal.getsignal(each) for each in SIGNALS] == before
    assert checkpoints_in(tmp_path / "finished") == []


@pytest.mark.parametrize(
    "settings",
    [
        {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1, "load_best_model_at_end": True},
        {"save_strategy": "best"},
        {"save_strategy": "epoch", "eval_strategy": "epoch"},
    ],
    ids=["limit", "best", "epoch"],
)
def test_what_a_signal_saves_is_kept_whatever_is_saved_otherwise(settings, tiny_model, tmp_path):
    measured = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "nll", "greater_is_better": True}
    args = config(
        tmp_path, output_dir=str(tmp_path / "stopped"), max_steps=6, learning_rate=1e-1, **(measured | settings)
    )
    stopped = SeqGANTrainer(
        tiny_model("lstm"), tiny_model("cnn"), args, train_dataset=texts(), eval_dataset=texts(count=6),
        callbacks=[SignalAt(signal.SIGTERM, step=2)],
    )  # fmt: skip
    scores = iter([5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    evaluate = stopped._evaluate
    stopped._evaluate = lambda *given, **kwargs: evaluate(*given, **kwargs) | {"eval_nll": next(scores)}
    with pytest.raises(Interrupted):
        stopped.train()
    assert checkpoints_in(tmp_path / "stopped")[-1].name == "checkpoint-3"
    assert stopped.state.global_step == 3


def test_a_signal_after_the_last_update_ends_nothing(tiny_model, tmp_path):
    finished = trainer(tiny_model, tmp_path, "finished", max_steps=2)
    finalize = finished._finalize_training

    def finalize_and_be_called(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGINT)
        return finalize(*args, **kwargs)

    finished._finalize_training = finalize_and_be_called
    assert finished.train().global_step == 2


def test_signals_that_are_ignored_stay_so(tiny_model, tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        sent = SignalAt(signal.SIGINT, step=1)
        trainer(tiny_model, tmp_path, "background", [sent], max_steps=2).train()
    finally:
        signal.signal(signal.SIGINT, before)
