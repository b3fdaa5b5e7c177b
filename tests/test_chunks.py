"""Where memory runs out, rows are worked on in smaller chunks, and nothing else changes."""

import pytest
import torch
from conftest import run_out_of_memory, short_of_memory
from test_trainer import config, moved, texts, weights

from seqgan_hf import SeqGANTrainer
from seqgan_hf.chunks import RowLimit, naming_knobs
from seqgan_hf.losses import completion_predictions


def limited(most, done):
    """Return the numbers of a slice's rows, and fail above `most` rows."""

    def work(rows):
        done.append(rows.stop - rows.start)
        numbers = torch.arange(rows.start, rows.stop)
        if len(numbers) > most:
            run_out_of_memory()
        return numbers

    return work


def test_chunks_are_halved_until_they_fit(caplog):
    done, limit = [], RowLimit("rollouts", "rollout_batch_size")
    assert torch.cat(list(limit.split(20, 16, limited(5, done)))).tolist() == list(range(20))
    assert done == [16, 8, 4, 4, 4, 4, 4] and limit.most == 4
    assert caplog.messages[-1] == (
        "Memory ran out for rollouts of 8 rows at once; from now on it is 4. Set `rollout_batch_size` to that, and the "
        "next run need not find out."
    )
    assert len(caplog.messages) == 2


def test_what_was_too_much_is_not_tried_again(caplog):
    done, limit = [], RowLimit("rollouts", "rollout_batch_size")
    list(limit.split(8, 8, limited(5, done)))
    assert done == [8, 4, 4] and len(caplog.messages) == 1
    list(limit.split(6, 8, limited(5, done), rows_each=2))
    assert done[3:] == [2, 2, 2] and len(caplog.messages) == 1


def test_a_single_item_that_does_not_fit_is_an_error():
    message = r"^Memory ran out for rollouts of 3 rows, the fewest possible \(.*can't allocate memory.*\)\.$"
    with pytest.raises(MemoryError, match=message):
        list(RowLimit("rollouts", "rollout_batch_size").split(4, 4, limited(0, []), rows_each=3))


def test_other_errors_pass_through():
    def fail(rows):
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        list(RowLimit("rollouts", "rollout_batch_size").split(4, 4, fail))
    with pytest.raises(RuntimeError, match=r"^shapes cannot"), naming_knobs("It", "Change it"):
        fail(slice(0))


@pytest.mark.parametrize("settings", [{}, {"num_generations": 2, "baseline": "group_leave_one_out"}])
def test_a_game_on_little_memory_is_the_same_game(settings, tiny_model, tmp_path, caplog):
    def played(most=None):
        generator, judge = tiny_model("lstm"), tiny_model("cnn")
        args = config(tmp_path, max_steps=2, discriminator_batch_size=4, **settings)
        if most is not None:
            short_of_memory(generator, most)
            short_of_memory(judge, most)
        trainer = SeqGANTrainer(generator, judge, args, train_dataset=texts())
        trainer.train()
        return trainer

    whole = played()
    assert caplog.messages == []
    short = played(most=6)
    assert {message.split(" of ")[0] for message in caplog.messages} == {
        "Memory ran out for completions", "Memory ran out for texts to be judged"
    }  # fmt: skip
    assert len(caplog.messages) == len(set(caplog.messages)), "what was too much is not tried again"
    for network in ("model", "discriminator.model"):
        first, second = (weights_of(trainer, network) for trainer in (whole, short))
        for name in first:
            torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=2e-5)


def weights_of(trainer, network):
    for name in network.split("."):
        trainer = getattr(trainer, name)
    return weights(trainer)


def test_an_update_that_does_not_fit_names_the_knobs(tiny_model, tmp_path, monkeypatch):
    def predict(*args, **kwargs):
        run_out_of_memory()
        return completion_predictions(*args, **kwargs)

    trainer = SeqGANTrainer(tiny_model("lstm"), tiny_model("cnn"), config(tmp_path), train_dataset=texts())
    before = weights(trainer.model)
    monkeypatch.setattr("seqgan_hf.trainer.completion_predictions", predict)
    message = (
        r"^An update of the generator does not fit into memory \(.*can't allocate memory.*\)\. Lower "
        r"`per_device_train_batch_size` and raise `gradient_accumulation_steps` as much, lower `max_completion_length`, "
        r"set `gradient_checkpointing` or `bf16`, or train an adapter \(`peft_config`\)\.$"
    )
    with pytest.raises(MemoryError, match=message):
        trainer.train()
    assert not moved(before, trainer.model)
    short_of_memory(trainer.discriminator.model, 0)
    message = (
        r"^An update of the discriminator does not fit into memory \(.*\)\. Lower `discriminator_batch_size` or "
        r"`max_completion_length`, or train an adapter of it alone\.$"
    )
    batch = trainer.texts.first_held_out(2)
    with pytest.raises(MemoryError, match=message):
        trainer.discriminator.update(batch, batch, epochs=1, seed=0)
