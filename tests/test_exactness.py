"""How rows are cut into batches, chunks and processes changes nothing that is computed of them."""

import pytest
import torch
from conftest import BOS
from test_trainer import config, texts, weights

from seqgan_hf import SeqGANTrainer
from seqgan_hf.completions import Completions
from seqgan_hf.losses import mean_negative_log_likelihood

EVERY_TERM = {"beta": 0.1, "mle_coef": 0.5, "whiten_advantages": True}
ROUNDS = 5
# Adam makes a whole step of what is only rounded: of GPT-2's biases of keys, say, whose gradient is 0.
NO_STEP_FROM_NOTHING = {"adam_epsilon": 1e-2, "learning_rate": 0.1}


def assert_same_game(first, second, rtol=1e-4, atol=2e-5, but=()):
    """Compare the networks of two trainers, and what they logged of them."""
    for one, other in ((first.model, second.model), (first.discriminator.model, second.discriminator.model)):
        expected, found = weights(one), weights(other)
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=rtol, atol=atol)
    for one, other in zip(first.state.log_history, second.state.log_history, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            if "seconds/" not in name and not name.startswith("train_") and name not in but:
                assert other[name] == pytest.approx(one[name], rel=1e-3, abs=1e-4), name


@pytest.fixture
def played(tiny_model, tmp_path):
    def play(generator="lstm", **settings):
        defaults = {
            "max_steps": ROUNDS,
            "per_device_train_batch_size": 8,
            "discriminator_samples": 8,
            **NO_STEP_FROM_NOTHING,
        }
        args = config(tmp_path, **{**defaults, **settings})
        trainer = SeqGANTrainer(tiny_model(generator), tiny_model("cnn"), args, train_dataset=texts(count=40))
        trainer.train()
        return trainer

    return play


@pytest.mark.parametrize("generator", ["lstm", "gpt2"])
@pytest.mark.parametrize("control", ["none", "shuffled", "random"])
def test_eight_batches_of_one_are_one_batch_of_eight(generator, control, played):
    settings = {**EVERY_TERM, "reward_control": control, "baseline": "difference"}
    whole = played(generator, **settings)
    parts = played(generator, per_device_train_batch_size=1, gradient_accumulation_steps=8, **settings)
    assert_same_game(whole, parts)


def test_completions_are_compared_with_those_of_all_batches(played):
    settings = {**EVERY_TERM, "baseline": "leave_one_out"}
    whole = played(**settings)
    assert_same_game(whole, played(per_device_train_batch_size=2, gradient_accumulation_steps=4, **settings))


def test_groups_of_one_prompt_stay_together_over_batches(played):
    settings = {"num_generations": 2, "baseline": "group_leave_one_out"}
    whole = played(**settings)
    assert_same_game(whole, played(per_device_train_batch_size=2, gradient_accumulation_steps=4, **settings))


def test_a_game_in_chunks_is_the_same_game(played):
    settings = {"rollout_update_rate": 0.5, "num_rollouts": 3}
    assert_same_game(played(**settings), played(rollout_batch_size=3, **settings))


@pytest.mark.parametrize("name", ["lstm", "gpt2", "llama"])
def test_more_padding_changes_no_loss_and_no_score(name, tiny_model):
    torch.manual_seed(1)
    rows = [
        {"prompt_ids": [BOS, *range(3, 3 + prompt)], "completion_ids": torch.randint(3, 20, (length,)).tolist()}
        for prompt, length in ((0, 5), (2, 3), (3, 7))
    ]
    batch = Completions.collate(rows, pad_token_id=0)
    longer = Completions.concatenate(
        [batch, Completions.collate([{"prompt_ids": [BOS] * 9, "completion_ids": [5] * 12}], 0)], 0
    ).select(slice(0, 3))
    assert longer.prompt_ids.shape[1] == 9 and longer.completion_ids.shape[1] == 12
    model = tiny_model(name)
    losses = [mean_negative_log_likelihood(model, texts) for texts in (batch, longer)]
    torch.testing.assert_close(*losses)
    gradients = [torch.autograd.grad(loss, list(model.parameters())) for loss in losses]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_gradient_scaler_is_g_s_alone_and_changes_nothing(tiny_model, tmp_path):
    """As in fp16, which accelerate does on a GPU only; the scaler itself works on a CPU, and a power of 2 is exact."""

    def played(scaler):
        args = config(
            tmp_path, max_steps=3, max_grad_norm=0.0, **NO_STEP_FROM_NOTHING
        )  # clipping unscales in fp16 alone
        trainer = SeqGANTrainer(tiny_model("lstm"), tiny_model("cnn"), args, train_dataset=texts())
        trainer.accelerator.scaler = scaler
        learn, states = trainer._train_discriminator_on_fresh_set, []

        def learn_and_look(game_round):
            before = scaler and scaler.state_dict()
            learn(game_round)
            states.append((before, scaler and scaler.state_dict()))

        trainer._train_discriminator_on_fresh_set = learn_and_look
        trainer.train()
        return trainer, states

    scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=2)
    plain, scaled = played(None), played(scaler)
    assert_same_game(plain[0], scaled[0], but=["grad_norm"])  # which is scaled, too, where nothing clips it
    assert scaler.get_scale() == 512.0, "G's updates did go through it"
    assert len(scaled[1]) == 4 and all(before == after for before, after in scaled[1])


def test_an_update_that_failed_leaves_nothing_to_the_next_training(tiny_model, tmp_path):
    args = config(tmp_path, max_steps=1, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    trainer = SeqGANTrainer(tiny_model("lstm"), tiny_model("cnn"), args, train_dataset=texts())
    learn, trainer.compute_loss = trainer.compute_loss, None
    with pytest.raises(TypeError):
        trainer.train()
    trainer.compute_loss = learn
    trainer.train()
    assert trainer.state.global_step == 1 and trainer._scored == []
