"""After Ctrl-C or SIGTERM a run saves, ends, and goes on later as if nothing had happened."""

import os
import signal

import pytest
from test_trainer import config, moved, texts, weights
from transformers import TrainerCallback

from seqgan_hf import SeqGANTrainer
from seqgan_hf.checkpoints import checkpoints_in
from seqgan_hf.interruption import SIGNALS, Interrupted


class SignalAt(TrainerCallback):
    def __init__(self, number, step):
        self.number, self.step = number, step
        self.handlers_after = None

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)
            self.handlers_after = [signal.getsignal(each) for each in SIGNALS]


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
    assert "finishing this update, then saving. A second one ends at once." in capfd.readouterr().err
    assert f"Stopped after update 2, which is saved as a checkpoint in {tmp_path / 'stopped'}." in caplog.text
    assert sent.handlers_after == [signal.getsignal(each) for each in SIGNALS] == before
    assert [path.name for path in checkpoints_in(tmp_path / "stopped")] == ["checkpoint-2"]
    again = trainer(tiny_model, tmp_path, "stopped")
    again.train(resume_from_checkpoint=True)
    assert not moved(weights(whole.model), again.model)
    assert not moved(weights(whole.discriminator.model), again.discriminator.model)


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
