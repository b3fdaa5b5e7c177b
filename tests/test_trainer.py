"""The game: every architecture plays it, it learns what it should and nothing else, and it resumes exactly."""

import re
import shutil
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from accelerate.state import AcceleratorState
from conftest import BOS, DISCRIMINATORS, EOS, GENERATORS, PAD, SENTENCES, SPECIAL, VOCAB_SIZE, short_of_memory
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification, OPTConfig, OPTForCausalLM

from seqgan_hf import (
    LikelihoodRatioForSequenceClassification,
    LSTMConfig,
    LSTMForCausalLM,
    SeqGANConfig,
    SeqGANTrainer,
    TextCNNConfig,
    TextCNNForSequenceClassification,
)
from seqgan_hf.losses import completion_logits
from seqgan_hf.streams import generator_and_discriminator_folds
from seqgan_hf.tokenization import train_tokenizer


def config(tmp_path, **kwargs):
    defaults = {
        "output_dir": str(tmp_path / "run"),
        "max_steps": 1,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "max_completion_length": 6,
        "num_rollouts": 2,
        "discriminator_warmup_steps": 1,
        "discriminator_steps": 1,
        "discriminator_epochs": 1,
        "discriminator_samples": 8,
        "discriminator_batch_size": 8,
        "discriminator_learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "log_completions": False,
    }
    return SeqGANConfig(**{**defaults, **kwargs})


def texts(count=20, length=6, low=3):
    generator = torch.Generator().manual_seed(9)
    return Dataset.from_dict(
        {"input_ids": torch.randint(low, VOCAB_SIZE, (count, length), generator=generator).tolist()}
    )


def weights(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def moved(before, model):
    return any(not torch.equal(before[name], value) for name, value in model.state_dict().items())


def play(generator, judge, args, dataset=None, **kwargs):
    trainer = SeqGANTrainer(generator, judge, args, train_dataset=dataset or texts(), **kwargs)
    trainer.train()
    return trainer


@pytest.mark.parametrize("name", GENERATORS)
def test_every_generator_plays_a_round_and_both_networks_move(name, tiny_model, tmp_path):
    generator, judge = tiny_model(name), tiny_model("cnn")
    before = weights(generator), weights(judge)
    trainer = play(generator, judge, config(tmp_path), texts(length=5))
    assert moved(before[0], trainer.model) and moved(before[1], trainer.discriminator.model)


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_every_discriminator_plays_a_round_and_both_networks_move(name, tiny_model, tmp_path):
    generator, judge = tiny_model("llama"), tiny_model(name)
    before = weights(generator), weights(judge)
    trainer = play(generator, judge, config(tmp_path))
    assert moved(before[0], trainer.model) and moved(before[1], trainer.discriminator.model)


@pytest.mark.parametrize(
    "settings",
    [
        {"baseline": "none"},
        {"baseline": "difference", "rollout_stride": 2, "reward": "logit"},
        {"baseline": "group_leave_one_out", "num_generations": 2, "whiten_advantages": True},
        {"beta": 0.1, "mle_coef": 0.5, "temperature": 0.7},
        {"rollout_update_rate": 0.3, "rollout_batch_size": 3},
        {"rollout_batch_size": "auto"},
        {"discriminator_data": "held_out", "mle_coef": 1.0},
        {"discriminator_data": "cross_fit", "mle_coef": 1.0, "generator_steps": 2},
        {"gradient_accumulation_steps": 2, "discriminator_accuracy_gate": 0.9},
        {"reward_control": "shuffled"},
        {"discriminator_loss": "pairwise", "reward": "logit"},
        {"discriminator_replay": 0.5},
        {"reward": "centered_probability"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_every_setting_plays_two_rounds(settings, tiny_model, tmp_path):
    trainer = play(tiny_model("lstm"), tiny_model("cnn"), config(tmp_path, max_steps=3, **settings))
    assert trainer.state.global_step == 3
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(log) == 3 and all(torch.isfinite(torch.tensor(entry["loss"])) for entry in log)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("column", ["text", "prompt"])
def test_text_and_prompts_play_with_two_tokenizers(column, streaming, tokenizer, tmp_path):
    rows = {"text": SENTENCES} if column == "text" else {"prompt": ["we", "the town"] * 5, "completion": SENTENCES}
    dataset = Dataset.from_dict({name: values * 11 for name, values in rows.items()})
    own = train_tokenizer(SENTENCES[:4], 265)
    generator = LSTMForCausalLM(LSTMConfig(vocab_size=len(tokenizer)))
    judge = TextCNNForSequenceClassification(
        TextCNNConfig(vocab_size=len(own), filter_sizes=(2,), num_filters=(4,), pad_token_id=own.pad_token_id)
    )
    before = weights(generator), weights(judge)
    trainer = play(
        generator,
        judge,
        config(tmp_path, max_completion_length=12),
        dataset.to_iterable_dataset() if streaming else dataset,
        eval_dataset=dataset,
        processing_class=tokenizer,
        discriminator_processing_class=own,
    )
    assert moved(before[0], trainer.model) and moved(before[1], trainer.discriminator.model)
    assert trainer.evaluate()["eval_nll"] > 0


def test_evaluate_gives_nll_per_token_over_all_tokens(tiny_model, tmp_path):
    dataset = Dataset.from_dict({"input_ids": [[3, 4, 5, 6, EOS], [7, EOS], [8, 9, EOS]]})
    trainer = SeqGANTrainer(
        tiny_model("gpt2"),
        tiny_model("cnn"),
        config(tmp_path, per_device_eval_batch_size=2),
        train_dataset=texts(),
        eval_dataset=dataset,
    )
    metrics = trainer.evaluate()
    nll, count = 0.0, 0
    for ids in dataset["input_ids"]:
        labels = torch.tensor([[BOS, *ids]])
        loss = trainer.model(labels, labels=labels).loss.item()
        nll, count = nll + loss * len(ids), count + len(ids)
    assert metrics["eval_nll"] == pytest.approx(nll / count, rel=1e-5)
    assert metrics["eval_perplexity"] == pytest.approx(torch.tensor(nll / count).exp().item(), rel=1e-5)
    assert trainer.evaluate(dataset.select([0]))["eval_nll"] != metrics["eval_nll"]


def test_the_log_carries_what_a_person_needs(tiny_model, tmp_path, capsys):
    args = config(tmp_path, beta=0.1, log_completions=True, num_completions_to_log=2)
    trainer = play(tiny_model("lstm"), tiny_model("cnn"), args)
    (log,) = [entry for entry in trainer.state.log_history if "loss" in entry]
    expected = {
        "reward/mean", "reward/std", "entropy", "kl", "completions/mean_length", "completions/ended_ratio",
        "discriminator/loss", "discriminator/accuracy_real", "discriminator/accuracy_generated",
        "discriminator/held_out_accuracy", "discriminator/held_out_auc", "seconds/generate", "seconds/rollout",
        "seconds/score", "seconds/generator", "seconds/discriminator",
    }  # fmt: skip
    assert expected <= set(log)
    assert any("warmup_discriminator/loss" in entry for entry in trainer.state.log_history)
    table = pyarrow.parquet.read_table(Path(args.output_dir) / "completions" / "completions_00001.parquet")
    assert table.column_names == ["step", "prompt", "completion", "score"] and table.num_rows == 2
    assert "P(real)" in capsys.readouterr().out


def test_a_run_shorter_than_its_logging_steps_still_logs_its_last(tiny_model, tmp_path):
    trainer = play(tiny_model("lstm"), tiny_model("cnn"), config(tmp_path, max_steps=2, logging_steps=10))
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [2]


def test_nothing_behind_eos_is_trained_on(tiny_model, tmp_path):
    """Change what stands behind EOS: the loss and its gradient must not notice."""
    trainer = SeqGANTrainer(tiny_model("gpt2"), tiny_model("cnn"), config(tmp_path), train_dataset=texts())
    inputs = trainer.data_collator(list(trainer.train_dataset)[:4])
    (batch,) = trainer._generate_and_score_completions([inputs])
    mask = batch["completions"].completion_mask
    mask[:, 3:] = 0
    losses = []
    for filler in (0, 17):
        batch["completions"].completion_ids[:, 3:] = filler
        trainer.model.zero_grad()
        loss = trainer.compute_loss(trainer.model.eval(), batch)
        loss.backward()
        losses.append((loss.item(), trainer.model.transformer.wte.weight.grad.clone()))
    assert losses[0][0] == losses[1][0]
    torch.testing.assert_close(losses[0][1], losses[1][1])


# ---- Learning, proved against its controls -------------------------------------------------------------------------

TARGET = 5


def bandit(tmp_path, swap_labels=False, real_token=TARGET, steps=40, **kwargs):
    """
    A toy with a known optimum: texts of two tokens, all real ones `real_token` twice. G starts uniform.

    Returns P(real_token) of the first token before and after, and the trainer.
    """
    torch.manual_seed(0)
    generator = LSTMForCausalLM(LSTMConfig(vocab_size=8, embedding_size=8, hidden_size=8, bos_token_id=0))
    torch.manual_seed(1)

    judge = TextCNNForSequenceClassification(
        TextCNNConfig(vocab_size=8, embedding_size=8, filter_sizes=(1, 2), num_filters=(8, 8), dropout=0.0)
    )
    args = config(
        tmp_path,
        **{
            "max_steps": steps,
            "max_completion_length": 2,
            "per_device_train_batch_size": 16,
            "learning_rate": 2e-2,
            "discriminator_warmup_steps": 5,
            "discriminator_samples": 32,
            "discriminator_learning_rate": 1e-2,
            **kwargs,
        },
    )
    dataset = Dataset.from_dict({"input_ids": [[real_token, real_token]] * 40})
    trainer = SeqGANTrainer(generator, judge, args, train_dataset=dataset)
    if swap_labels:
        update = trainer.discriminator.update
        trainer.discriminator.update = lambda real, generated, *rest: update(generated, real, *rest)

    def probability():
        start = torch.tensor([[0]])
        with torch.no_grad():
            logits = completion_logits(
                trainer.model.eval(), start, torch.ones_like(start), start, torch.ones_like(start)
            )
        return logits.softmax(-1)[0, 0, TARGET].item()

    before = probability()
    trainer.train()
    return before, probability(), trainer


def test_a_real_reward_learns_the_target(tmp_path):
    before, after, _ = bandit(tmp_path)
    assert before < 0.2 and after > 0.8


def test_swapped_labels_unlearn_the_target(tmp_path):
    before, after, _ = bandit(tmp_path, swap_labels=True)
    assert after < before / 2


def test_noise_rewards_leave_a_generator_that_knows_nothing_of_the_real_texts(tmp_path):
    _, _, first = bandit(tmp_path / "a", reward_control="random", real_token=TARGET, steps=8)
    _, _, second = bandit(tmp_path / "b", reward_control="random", real_token=3, steps=8)
    assert moved(weights(first.discriminator.model), second.discriminator.model)
    start = LSTMForCausalLM(LSTMConfig(vocab_size=8, embedding_size=8, hidden_size=8, bos_token_id=0))
    assert moved(weights(start), first.model)
    assert not moved(weights(first.model), second.model)


@pytest.mark.parametrize("baseline", ["leave_one_out", "difference", "group_leave_one_out"])
def test_a_constant_reward_under_a_baseline_changes_nothing(baseline, tmp_path):
    torch.manual_seed(0)
    start = weights(LSTMForCausalLM(LSTMConfig(vocab_size=8, embedding_size=8, hidden_size=8, bos_token_id=0)))
    num_generations = 2 if baseline == "group_leave_one_out" else 1
    _, _, trainer = bandit(
        tmp_path, reward_control="constant", baseline=baseline, num_generations=num_generations, steps=5
    )
    assert not moved(start, trainer.model)


def test_a_constant_reward_without_a_baseline_moves_the_generator(tmp_path):
    """Why the paper's `none` is not the default: whatever was sampled is fed, though nothing was said about it."""
    torch.manual_seed(0)
    start = weights(LSTMForCausalLM(LSTMConfig(vocab_size=8, embedding_size=8, hidden_size=8, bos_token_id=0)))
    _, _, trainer = bandit(tmp_path, reward_control="constant", baseline="none", steps=5)
    assert moved(start, trainer.model)


# ---- Without rollouts ----------------------------------------------------------------------------------------------


@pytest.fixture
def ratio(tiny_model):
    """Return a function that makes a discriminator of unfinished texts, with weights of its own and with dropout."""

    def make():
        torch.manual_seed(0)
        return LikelihoodRatioForSequenceClassification.from_language_models(
            [tiny_model("lstm"), tiny_model("llama")], start_token_id=BOS, pad_token_id=PAD, hidden_size=4,
            generator_hidden_size=32, dropout=0.3,
        )  # fmt: skip

    return make


@pytest.mark.parametrize(
    "settings",
    [
        {"baseline": "leave_one_out"},
        {"baseline": "difference", "reward": "logit"},
        {"discriminator_data": "held_out", "discriminator_share": 0.25, "mle_coef": 0.5},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_a_discriminator_of_unfinished_texts_plays_without_rollouts(
    settings, ratio, tiny_model, tmp_path, monkeypatch
):
    monkeypatch.setattr("seqgan_hf.trainer.score_rollouts", None)  # it is not called
    generator, judge = tiny_model("lstm"), ratio()
    before = weights(generator), weights(judge)
    trainer = play(generator, judge, config(tmp_path, num_rollouts=0, max_steps=2, **settings), texts(length=5))
    assert trainer.discriminator.learns_prefixes and moved(before[0], generator)
    for name, value in judge.state_dict().items():
        assert torch.equal(value, before[1][name]) == name.startswith("language_models."), name
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all("seconds/score" in entry and "seconds/rollout" not in entry for entry in log) and len(log) == 2


def test_without_rollouts_a_generator_learns_what_the_language_models_of_its_judge_know(tmp_path):
    def probability_after(known):
        torch.manual_seed(0)
        generator, reader = (
            LSTMForCausalLM(LSTMConfig(vocab_size=8, embedding_size=8, hidden_size=8, bos_token_id=BOS))
            for _ in range(2)
        )
        with torch.no_grad():
            reader.lm_head.bias[known] += 4
        judge = LikelihoodRatioForSequenceClassification.from_language_models(
            [reader], start_token_id=BOS, pad_token_id=PAD
        )
        args = config(
            tmp_path, num_rollouts=0, reward="logit", baseline="difference", discriminator_warmup_steps=0,
            discriminator_steps=0, max_steps=40, max_completion_length=2, per_device_train_batch_size=16,
            learning_rate=2e-2,
        )  # fmt: skip
        play(generator, judge, args, Dataset.from_dict({"input_ids": [[3, 3]] * 40}))
        start = torch.tensor([[BOS]])
        with torch.no_grad():
            logits = completion_logits(generator.eval(), *[torch.full_like(start, BOS)] * 4)
        return logits.softmax(-1)[0, 0, TARGET].item()

    assert probability_after(known=TARGET) > 0.7 and probability_after(known=3) < 0.06


def test_the_discriminator_reads_the_generator_as_it_is_now(ratio, tiny_model, tmp_path):
    trainer = SeqGANTrainer(
        tiny_model("lstm"), ratio(), config(tmp_path, num_rollouts=0, max_steps=3), train_dataset=texts()
    )
    batch = trainer.texts.first_held_out(2)

    def read():
        return trainer.discriminator.encode(batch)["generator_logps"]

    before = read()
    trainer.train()
    assert not torch.allclose(read(), before)
    with torch.no_grad():
        logits = completion_logits(trainer.model.eval(), *batch.tensors())
    expected = logits.log_softmax(-1).gather(-1, batch.completion_ids.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(read(), expected * batch.completion_mask, rtol=1e-4, atol=1e-5)


def test_the_discriminator_reads_the_generator_at_the_temperature_at_which_it_writes(ratio, tiny_model, tmp_path):
    args = config(tmp_path, num_rollouts=0, temperature=0.5)
    trainer = SeqGANTrainer(tiny_model("lstm"), ratio(), args, train_dataset=texts())
    batch = trainer.texts.first_held_out(2)
    with torch.no_grad():
        logits = completion_logits(trainer.model.eval(), *batch.tensors())
    expected = (logits / 0.5).log_softmax(-1).gather(-1, batch.completion_ids.unsqueeze(-1)).squeeze(-1)
    found = trainer.discriminator.encode(batch)["generator_logps"]
    torch.testing.assert_close(found, expected * batch.completion_mask, rtol=1e-4, atol=1e-5)


def test_a_discriminator_of_whole_texts_cannot_do_without_rollouts(tiny_model, tmp_path):
    message = "its output must have `prefix_logits`, as that of LikelihoodRatioForSequenceClassification"
    with pytest.raises(ValueError, match=f"{message}; TextCNNForSequenceClassification has none. Set `num_rollouts`"):
        play(tiny_model("lstm"), tiny_model("cnn"), config(tmp_path, num_rollouts=0))


def test_a_game_without_rollouts_resumes_exactly(ratio, tiny_model, tmp_path):
    def trainer(run):
        args = config(
            tmp_path, output_dir=str(tmp_path / run), max_steps=4, save_strategy="steps", save_steps=2, num_rollouts=0
        )
        return SeqGANTrainer(tiny_model("lstm"), ratio(), args, train_dataset=texts())

    whole = trainer("whole")
    whole.train()
    resumed = trainer("resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert resumed.state.global_step == 4
    assert not moved(weights(whole.model), resumed.model)
    assert not moved(weights(whole.discriminator.model), resumed.discriminator.model)


def test_a_game_without_rollouts_on_little_memory(ratio, tiny_model, tmp_path):
    judge = ratio()
    args = config(tmp_path, num_rollouts=0, discriminator_batch_size=2)
    trainer = SeqGANTrainer(tiny_model("lstm"), judge, args, train_dataset=texts())
    whole = trainer.discriminator.score_prefixes(trainer.texts.first_held_out(6))
    short_of_memory(trainer.discriminator.model, 1)
    short = trainer.discriminator.score_prefixes(trainer.texts.first_held_out(6))
    for first, second in zip(whole, short, strict=True):
        torch.testing.assert_close(first, second)
    assert trainer.discriminator.row_limit.most is not None


# ---- Discriminator, rollout policy ---------------------------------------------------------------------------------


def test_the_accuracy_gate_stops_the_discriminator_and_nothing_else(tiny_model, tmp_path):
    judge = tiny_model("cnn")
    before = weights(judge)
    args = config(tmp_path, discriminator_accuracy_gate=0.5, discriminator_steps=2)
    trainer = SeqGANTrainer(tiny_model("lstm"), judge, args, train_dataset=texts())
    trainer.discriminator.evaluate = lambda real, generated: {"accuracy": 0.5, "auc": 0.5}
    generator_before = weights(trainer.model)
    trainer.train()
    assert not moved(before, judge) and moved(generator_before, trainer.model)


def test_the_discriminators_training_moves_no_random_state_of_the_generator(tiny_model, tmp_path):
    args = config(tmp_path, discriminator_epochs=2)
    trainer = SeqGANTrainer(tiny_model("lstm"), tiny_model("bert"), args, train_dataset=texts())
    before = torch.get_rng_state()
    trainer._train_discriminator_on_fresh_set(game_round=0)
    assert torch.equal(before, torch.get_rng_state())


def test_a_round_is_generator_steps_and_then_discriminator_steps(tiny_model, tmp_path):
    args = config(tmp_path, max_steps=6, generator_steps=3, discriminator_steps=2, discriminator_warmup_steps=4)
    trainer = SeqGANTrainer(tiny_model("lstm"), tiny_model("cnn"), args, train_dataset=texts())
    played = []
    trainer._train_discriminator_on_fresh_set = lambda game_round: played.append(
        (trainer.state.global_step, game_round)
    )
    trainer.train()
    assert played == [(0, 0)] * 4 + [(3, 0)] * 2 + [(6, 1)] * 2


def test_cross_fitting_keeps_the_halves_apart_within_a_round_and_swaps_them(tiny_model, tmp_path):
    args = config(tmp_path, max_steps=4, generator_steps=2, discriminator_data="cross_fit", mle_coef=1.0)
    trainer = SeqGANTrainer(tiny_model("lstm"), tiny_model("cnn"), args, train_dataset=texts())
    seen = {"generator": {}, "discriminator": {}}

    def spy(network):
        take = getattr(trainer.texts, f"for_{network}")

        def spied(game_round, count):
            batch = take(game_round, count)
            seen[network].setdefault(game_round, set()).update(map(tuple, batch.completion_ids[:, :5].tolist()))
            return batch

        setattr(trainer.texts, f"for_{network}", spied)

    spy("generator")
    spy("discriminator")
    trainer.train()
    assert set(seen["generator"]) == set(seen["discriminator"]) == {0, 1}
    for game_round in (0, 1):
        assert not seen["generator"][game_round] & seen["discriminator"][game_round]
    assert seen["generator"][0] & seen["discriminator"][1] and seen["generator"][1] & seen["discriminator"][0]


@pytest.mark.parametrize("streaming", [False, True], ids=["map", "stream"])
@pytest.mark.parametrize("mode", ["held_out", "cross_fit"])
def test_the_first_discriminator_reads_no_text_of_a_stage_before_the_game(mode, streaming, tiny_model, tmp_path):
    """That stage parts the texts as they come. One blank row among them, and the trainer parted them otherwise."""
    rows = [[] if number in (4, 9) else [3 + number % 20, 3 + number // 20, EOS] for number in range(60)]
    dataset = Dataset.from_dict({"input_ids": rows})
    dataset = dataset.to_iterable_dataset() if streaming else dataset
    args = config(tmp_path, discriminator_data=mode, discriminator_holdout=0.005)
    trainer = SeqGANTrainer(tiny_model("lstm"), tiny_model("cnn"), args, train_dataset=dataset)
    (stage, *_), _ = generator_and_discriminator_folds(dataset, mode, args.seed, args.discriminator_share)
    learned = {tuple(row["input_ids"]) for row in stage if row["input_ids"]}
    read = trainer.texts.for_discriminator(0, 60).completion_ids.tolist()
    tested = trainer.texts.held_out(0, 5).completion_ids.tolist()
    assert not learned & set(map(tuple, read + tested))
    assert len(learned | set(map(tuple, read + tested))) == 58
    assert trainer.train_dataset.column_names in (None, ["prompt_ids", "completion_ids"])
    prompts = len(list(trainer.train_dataset))
    assert prompts == (58 if mode == "cross_fit" else len(learned))


def test_a_delayed_rollout_policy_follows_the_generator(tiny_model, tmp_path):
    args = config(tmp_path, rollout_update_rate=0.25)
    generator = tiny_model("lstm")
    start = weights(generator)
    trainer = play(generator, tiny_model("cnn"), args)
    delayed, current = trainer.rollout_policy.state_dict(), trainer.model.state_dict()
    for name, value in start.items():
        torch.testing.assert_close(delayed[name], 0.75 * value + 0.25 * current[name])


def test_kl_holds_the_generator_near_its_reference(tmp_path):
    _, free, _ = bandit(tmp_path / "a", steps=25)
    _, held, _ = bandit(tmp_path / "b", steps=25, beta=20.0)
    assert held < free / 2


# ---- Save, load, resume --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"generator_steps": 2, "rollout_update_rate": 0.5, "mle_coef": 0.5, "beta": 0.1},
        {"discriminator_replay": 0.5, "discriminator_loss": "pairwise", "reward": "logit"},
    ],
)
def test_resumed_equals_uninterrupted(settings, tiny_model, tmp_path):
    def trainer(run):
        args = config(
            tmp_path, output_dir=str(tmp_path / run), max_steps=6, save_strategy="steps", save_steps=3, **settings
        )
        return SeqGANTrainer(tiny_model("gpt2"), tiny_model("bert"), args, train_dataset=texts(count=14))

    whole = trainer("whole")
    whole.train()
    checkpoint = tmp_path / "resumed" / "checkpoint-3"
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", checkpoint)
    resumed = trainer("resumed")
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.state.global_step == 6
    assert not moved(weights(whole.model), resumed.model)
    assert not moved(weights(whole.discriminator.model), resumed.discriminator.model)
    assert not moved(weights(whole.rollout_policy), resumed.rollout_policy)


def test_the_cpu_time_of_a_game_has_that_before_it_was_resumed(tiny_model, tmp_path):
    def trainer():
        args = config(tmp_path, max_steps=2, save_strategy="steps", save_steps=1)
        return SeqGANTrainer(tiny_model("lstm"), tiny_model("cnn"), args, train_dataset=texts())

    whole = trainer()
    assert whole.cpu_seconds == 0
    whole.train()
    spent = whole.cpu_seconds
    path = tmp_path / "run" / "checkpoint-1" / "seqgan_state.pt"
    state = torch.load(path, weights_only=True)
    assert 0 < state.pop("cpu_seconds") < spent == whole.cpu_seconds
    for before in (1000.0, None):  # checkpoints of earlier versions do not say it
        torch.save(state | ({"cpu_seconds": before} if before else {}), path)
        resumed = trainer()
        resumed.train(resume_from_checkpoint=str(path.parent))
        assert 1000 < resumed.cpu_seconds < 1500 if before else resumed.cpu_seconds is None


@pytest.mark.parametrize("name", ["lstm", "llama"])
def test_the_saved_pair_loads_by_the_auto_classes_in_a_new_process(name, tiny_model, tmp_path, run_elsewhere):
    trainer = play(tiny_model(name), tiny_model("cnn"), config(tmp_path))
    trainer.save_model()
    output = run_elsewhere(
        """
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
        import sys, torch
        folder = sys.argv[1]
        G = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
        D = AutoModelForSequenceClassification.from_pretrained(folder + "/discriminator", trust_remote_code=True).eval()
        assert sys.modules["seqgan_hf"] is None
        ids = torch.tensor([[1, 5, 6]])
        print(G(ids).logits.double().abs().sum().item(), D(ids).logits.double().abs().sum().item(), D.config.id2label)
        """,
        trainer.args.output_dir,
    )
    ids = torch.tensor([[1, 5, 6]])
    with torch.no_grad():
        expected = (
            trainer.model.eval()(ids).logits.double().abs().sum(),
            trainer.discriminator.model.eval()(ids).logits.double().abs().sum(),
        )
    g, d, labels = output.split(maxsplit=2)
    assert float(g) == pytest.approx(expected[0].item(), rel=1e-5)
    assert float(d) == pytest.approx(expected[1].item(), rel=1e-5)
    assert labels.strip() == "{0: 'generated', 1: 'real'}"


def test_an_adapter_resumes_exactly(tiny_model, tmp_path):
    from peft import LoraConfig

    def trainer(run):
        args = config(
            tmp_path, output_dir=str(tmp_path / run), max_steps=4, save_strategy="steps", save_steps=2, beta=0.1
        )
        adapter = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"])
        return SeqGANTrainer(tiny_model("llama"), tiny_model("cnn"), args, train_dataset=texts(), peft_config=adapter)

    whole = trainer("whole")
    whole.train()
    resumed = trainer("resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert not moved(weights(whole.model), resumed.model)
    assert not moved(weights(whole.discriminator.model), resumed.discriminator.model)


def test_the_best_pair_is_loaded_together(tiny_model, tmp_path):
    args = config(
        tmp_path, max_steps=3, save_strategy="steps", save_steps=1, eval_strategy="steps", eval_steps=1,
        load_best_model_at_end=True, metric_for_best_model="nll", greater_is_better=True, learning_rate=1e-1,
    )  # fmt: skip
    trainer = SeqGANTrainer(
        tiny_model("lstm"), tiny_model("cnn"), args, train_dataset=texts(), eval_dataset=texts(count=6)
    )
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    saved = type(trainer.discriminator.model).from_pretrained(best / "discriminator")
    assert not moved(weights(saved), trainer.discriminator.model)
    assert not moved(weights(LSTMForCausalLM.from_pretrained(best)), trainer.model)


def test_a_checkpoint_without_the_games_state_is_refused(tiny_model, tmp_path):
    args = config(tmp_path, max_steps=2, save_strategy="steps", save_steps=1, save_only_model=True)
    trainer = play(tiny_model("lstm"), tiny_model("cnn"), args)
    message = "cannot be resumed: it lacks seqgan_state.pt, the state of the game. Resume a checkpoint"
    with pytest.raises(ValueError, match=re.escape(message)):
        trainer.train(resume_from_checkpoint=str(Path(args.output_dir) / "checkpoint-1"))


def test_a_name_or_path_stands_for_model_and_tokenizer(tiny_model, tokenizer, tmp_path):
    generator = LSTMForCausalLM(LSTMConfig(vocab_size=len(tokenizer)))
    generator.save_pretrained(tmp_path / "generator")
    tokenizer.save_pretrained(tmp_path / "generator")

    judge = TextCNNForSequenceClassification(TextCNNConfig(vocab_size=300, filter_sizes=(2,), num_filters=(4,)))
    judge.save_pretrained(tmp_path / "judge")
    tokenizer.save_pretrained(tmp_path / "judge")
    trainer = play(
        str(tmp_path / "generator"), str(tmp_path / "judge"), config(tmp_path), Dataset.from_dict({"text": SENTENCES})
    )
    assert trainer.processing_class is not None
    assert trainer.discriminator.processing_class is None  # the same vocabulary: ids are read as they are


@pytest.mark.parametrize("name", ["lstm", "llama"])
def test_names_without_a_tokenizer_are_networks_of_ids(name, tiny_model, tmp_path):
    """From config.json alone, `AutoTokenizer` made up an empty tokenizer for a BERT, and raised for an LSTM."""
    tiny_model(name).save_pretrained(tmp_path / "generator")
    tiny_model("bert").save_pretrained(tmp_path / "judge")
    trainer = play(str(tmp_path / "generator"), str(tmp_path / "judge"), config(tmp_path))
    assert trainer.processing_class is None and trainer.discriminator.processing_class is None
    instances = play(tiny_model(name), tiny_model("bert"), config(tmp_path))
    assert not moved(weights(instances.model), trainer.model)
    assert not moved(weights(instances.discriminator.model), trainer.discriminator.model)


def test_a_discriminator_saved_without_a_tokenizer_reads_the_generators_ids(tokenizer, tmp_path):
    generator = LSTMForCausalLM(LSTMConfig(vocab_size=len(tokenizer)))
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(tmp_path / "judge")
    texts_ = Dataset.from_dict({"text": SENTENCES})
    trainer = play(generator, str(tmp_path / "judge"), config(tmp_path), texts_, processing_class=tokenizer)
    assert trainer.discriminator.processing_class is None


def test_texts_for_a_generator_saved_without_a_tokenizer_are_refused(tiny_model, tmp_path):
    tiny_model("lstm").save_pretrained(tmp_path / "generator")
    message = "`train_dataset` holds text, so the generator's tokenizer must be passed as `processing_class`."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SeqGANTrainer(
            str(tmp_path / "generator"),
            tiny_model("cnn"),
            config(tmp_path),
            train_dataset=Dataset.from_dict({"text": SENTENCES}),
        )


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["embed_tokens", "v_proj"]])
def test_an_adapter_trains_and_the_base_stays(targets, tiny_model, tmp_path):
    from peft import LoraConfig

    base = tiny_model("llama")
    before = weights(base)
    trainer = play(
        base,
        tiny_model("cnn"),
        config(tmp_path, beta=0.1),
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=targets),
    )
    after = {
        name.replace("base_model.model.", "").replace("base_layer.", ""): v
        for name, v in trainer.model.state_dict().items()
    }
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any("lora_B" in name and value.abs().max() > 0 for name, value in after.items())
    trainer.save_model()
    assert (Path(trainer.args.output_dir) / "adapter_model.safetensors").is_file()


# ---- Bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        ("_score", r"24 of 24 rewards are not finite at step 3\."),
        ("compute_loss", r"The generator's loss is nan at step 3 \(entropy [\d.]+, policy_loss nan\)"),
    ],
)
def test_what_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(spoiled, message, tiny_model, tmp_path):
    args = config(tmp_path, max_steps=4, save_strategy="steps", save_steps=1)
    trainer = SeqGANTrainer(tiny_model("lstm"), tiny_model("cnn"), args, train_dataset=texts())
    inner = getattr(trainer, spoiled)
    factor = {0: 1.0, 1: 1.0, 2: float("nan")}

    def score(batch):
        return inner(batch) * factor[trainer.state.global_step]

    def compute_loss(model, inputs, **kwargs):
        return inner(
            model, inputs | {"advantages": inputs["advantages"] * factor[trainer.state.global_step]}, **kwargs
        )

    setattr(trainer, spoiled, score if spoiled == "_score" else compute_loss)
    with pytest.raises(FloatingPointError, match=message):
        trainer.train()
    checkpoints = sorted(path.name for path in Path(args.output_dir).glob("checkpoint-*"))
    assert checkpoints == ["checkpoint-1", "checkpoint-2"]
    saved = LSTMForCausalLM.from_pretrained(Path(args.output_dir) / "checkpoint-2")
    assert not moved(weights(saved), trainer.model)


def test_weights_that_are_not_finite_stop_the_run_where_they_are_read(tiny_model, tmp_path):
    generator = tiny_model("gpt2")
    args = config(tmp_path, discriminator_warmup_steps=0)
    trainer = SeqGANTrainer(generator, tiny_model("cnn"), args, train_dataset=texts())
    with torch.no_grad():
        generator.transformer.h[0].mlp.c_fc.weight[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="The generator's logits are not finite: it diverged"):
        trainer.train()


def test_a_gradient_that_is_not_finite_stops_before_the_update(tiny_model, tmp_path):
    trainer = SeqGANTrainer(tiny_model("lstm"), tiny_model("cnn"), config(tmp_path), train_dataset=texts())
    before = weights(trainer.model)
    trainer.model.lm_head.bias.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(FloatingPointError, match=r"The norm of the generator's gradient is (nan|inf) at step 1"):
        trainer.train()
    assert not moved(before, trainer.model)


# OPT and its kin call `nn.functional.dropout`, with probabilities that their layers keep as numbers.
WITH_DROPOUT = {
    "gpt2": GENERATORS["gpt2"],  # 0.1 by default
    "lstm": lambda: LSTMForCausalLM(LSTMConfig(**SPECIAL, num_hidden_layers=2, dropout=0.3)),
    "opt": lambda: OPTForCausalLM(
        OPTConfig(
            **SPECIAL, hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=16,
            max_position_embeddings=64, init_std=0.5, dropout=0.3, attention_dropout=0.3, layerdrop=0.3,
        )
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WITH_DROPOUT)
def test_without_an_update_there_is_no_kl_to_the_reference(name, tmp_path):
    """Dropout in the log-probabilities, and none in sampling, once made a KL of 0.9 nats out of nothing."""
    torch.manual_seed(0)
    generator = WITH_DROPOUT[name]()
    trainer = play(generator, DISCRIMINATORS["cnn"](), config(tmp_path, beta=0.1))
    (log,) = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert log["kl"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("adapted", [False, True], ids=["whole", "adapter"])
def test_in_half_precision_there_is_no_kl_without_an_update_either(adapted, tiny_model, tmp_path):
    """The reference once computed in float32 beside a generator in bfloat16: a KL out of rounding alone."""
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear") if adapted else None
    args = config(tmp_path, beta=0.1, bf16=True, use_cpu=True)
    trainer = play(tiny_model("llama"), tiny_model("cnn"), args, peft_config=lora)
    (log,) = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert log["kl"] == pytest.approx(0, abs=1e-6) and log["grad_norm"] > 0


def test_bfloat16_plays_a_round(tiny_model, tmp_path):
    generator, judge = tiny_model("llama"), tiny_model("bert")
    before = weights(generator), weights(judge)
    trainer = play(generator, judge, config(tmp_path, bf16=True, use_cpu=True, beta=0.1))
    assert moved(before[0], trainer.model) and moved(before[1], trainer.discriminator.model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"discriminator_learning_rate": -1.0}, "`discriminator_learning_rate` must be above 0; got -1.0."),
        ({"num_rollouts": -1}, "`num_rollouts` must be at least 0; got -1."),
        (
            {"num_rollouts": 0, "rollout_stride": 2},
            "`num_rollouts=0` leaves unfinished texts to the discriminator, which judges each prefix, so "
            "`rollout_stride` must be 1; got 2.",
        ),
        ({"num_rollouts": 0, "rollout_update_rate": 0.5}, "so `rollout_update_rate` must be 1; got 0.5."),
        (
            {"num_rollouts": 0, "discriminator_loss": "pairwise", "reward": "logit"},
            "so `discriminator_loss` must be cross_entropy; got 'pairwise'.",
        ),
        ({"rollout_stride": 0}, "`rollout_stride` must be at least 1; got 0."),
        ({"reward": "score"}, "`reward` must be one of probability, logit, centered_probability"),
        (
            {"baseline": "mean"},
            "`baseline` must be one of none, leave_one_out, group_leave_one_out, difference; got 'mean'.",
        ),
        ({"reward_control": "zero"}, "`reward_control` must be one of none, constant, shuffled, random; got 'zero'."),
        (
            {"reward_control": "shuffled", "per_device_train_batch_size": 1, "baseline": "none"},
            "`reward_control='shuffled'` gives each completion of an update the rewards of another, and needs at least "
            "2 of them: raise `per_device_train_batch_size` or `gradient_accumulation_steps`.",
        ),
        ({"discriminator_data": "all"}, "`discriminator_data` must be one of same, held_out, cross_fit; got 'all'."),
        ({"discriminator_loss": "hinge"}, "`discriminator_loss` must be one of cross_entropy, pairwise; got 'hinge'."),
        ({"discriminator_replay": 1.0}, "`discriminator_replay` must be in [0, 1); got 1.0."),
        (
            {"discriminator_loss": "pairwise"},
            "`discriminator_loss='pairwise'` leaves scores open up to a constant, so `reward` must be `logit`; got "
            "'probability'.",
        ),
        (
            {"discriminator_loss": "pairwise", "reward": "logit", "baseline": "none"},
            "so `baseline` must be one, which takes that constant away; got 'none'.",
        ),
        (
            {"discriminator_loss": "pairwise", "reward": "logit", "discriminator_accuracy_gate": 0.8},
            "so `discriminator_accuracy_gate` must be left out; got 0.8.",
        ),
        ({"temperature": 0.0}, "`temperature` must be above 0; got 0.0. Greedy decoding has no gradient."),
        ({"rollout_update_rate": 0.0}, "`rollout_update_rate` must be in (0, 1]; got 0.0."),
        ({"discriminator_holdout": 0.9}, "`discriminator_holdout` must be in (0, 0.5]; got 0.9."),
        ({"discriminator_share": 0.0}, "`discriminator_share` must be in (0, 0.5]; got 0.0."),
        ({"discriminator_share": 0.6}, "`discriminator_share` must be in (0, 0.5]; got 0.6."),
        ({"discriminator_accuracy_gate": 0.3}, "`discriminator_accuracy_gate` must be in [0.5, 1]"),
        (
            {"num_generations": 3},
            "`per_device_train_batch_size` (4) must be a multiple of `num_generations` (3)",
        ),
        ({"per_device_train_batch_size": 1}, "`baseline='leave_one_out'` compares the completions of a batch"),
        ({"baseline": "group_leave_one_out"}, "`num_generations` must be at least 2; got 1."),
        (
            {"enable_jit_checkpoint": True},
            "SIGTERM and Ctrl-C SeqGANTrainer finishes the update, saves and ends by itself.",
        ),
        (
            {"auto_find_batch_size": True},
            "lower `per_device_train_batch_size`, and raise `gradient_accumulation_steps`",
        ),
    ],
)
def test_settings_out_of_range_are_refused(settings, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        config(tmp_path, **settings)


def test_completions_longer_than_the_context_are_refused(tiny_model, tmp_path):
    message = "Row 0 of `train_dataset` needs 1 prompt tokens and up to 64 of completion, but the generator reads 64"
    with pytest.raises(ValueError, match=re.escape(message)):
        SeqGANTrainer(
            tiny_model("gpt2"), tiny_model("cnn"), config(tmp_path, max_completion_length=64), train_dataset=texts()
        )
    message = (
        "Row 0 of `train_dataset` needs 1 prompt tokens and up to 64 of completion, but the discriminator reads 64"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        SeqGANTrainer(
            tiny_model("lstm"), tiny_model("bert"), config(tmp_path, max_completion_length=64), train_dataset=texts()
        )


def test_a_missing_dataset_is_named(tiny_model, tmp_path):
    with pytest.raises(ValueError, match="`train_dataset` is missing"):
        SeqGANTrainer(tiny_model("gpt2"), tiny_model("cnn"), config(tmp_path))


def test_a_dataset_of_another_kind_is_named(tiny_model, tmp_path):
    with pytest.raises(
        TypeError, match=r"`train_dataset` must be a `datasets\.Dataset` or `IterableDataset`; got list"
    ):
        SeqGANTrainer(tiny_model("gpt2"), tiny_model("cnn"), config(tmp_path), train_dataset=["a text"])


def test_a_name_that_cannot_be_had_is_explained(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = "Could not load the generator `nobody/nothing`: it is neither a local path nor could it be had"
    with pytest.raises(OSError, match=message) as error:
        SeqGANTrainer("nobody/nothing", tiny_model("cnn"), config(tmp_path), train_dataset=texts())
    assert "run a recipe with `--sample`" in str(error.value)


@pytest.mark.parametrize(("saved", "resumed"), [(0.3, 1.0), (1.0, 0.3)])
def test_a_delayed_policy_may_be_given_up_or_begun_where_a_run_is_resumed(saved, resumed, tiny_model, tmp_path):
    """The delayed copy of a checkpoint once overwrote the generator where the resumed run had none."""
    args = {"save_strategy": "steps", "save_steps": 1}
    first = play(
        tiny_model("lstm"), tiny_model("cnn"), config(tmp_path, rollout_update_rate=saved, max_steps=2, **args)
    )
    again = SeqGANTrainer(
        tiny_model("lstm"),
        tiny_model("cnn"),
        config(tmp_path, rollout_update_rate=resumed, max_steps=2, **args),
        train_dataset=texts(),
    )
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert not moved(weights(first.model), again.model)
    assert not moved(weights(first.model), again.rollout_policy)


def test_a_finished_run_that_is_resumed_makes_no_update_more(tiny_model, tmp_path):
    args = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    first = play(tiny_model("lstm"), tiny_model("cnn"), config(tmp_path, **args))
    again = SeqGANTrainer(tiny_model("lstm"), tiny_model("cnn"), config(tmp_path, **args), train_dataset=texts())
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 2
    assert not moved(weights(first.model), again.model)
    assert not moved(weights(first.discriminator.model), again.discriminator.model)


def test_a_checkpoint_of_other_folds_is_refused(tiny_model, tmp_path):
    args = {"save_strategy": "steps", "save_steps": 1}
    play(tiny_model("lstm"), tiny_model("cnn"), config(tmp_path, **args))
    other = config(tmp_path, discriminator_data="cross_fit", max_steps=2, **args)
    again = SeqGANTrainer(tiny_model("lstm"), tiny_model("cnn"), other, train_dataset=texts())
    message = "The checkpoint reads 3 streams of real texts and this run 6, because `discriminator_data` is another."
    with pytest.raises(ValueError, match=re.escape(message)):
        again.train(resume_from_checkpoint=True)


def test_the_precision_of_the_launcher_reaches_the_discriminator(tiny_model, tmp_path, monkeypatch):
    """`mixed_precision: bf16` of accelerate's configuration comes by the environment, and `args.bf16` stays off."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        trainer = play(tiny_model("lstm"), tiny_model("cnn"), config(tmp_path))
        assert trainer.accelerator.mixed_precision == "bf16"
        with trainer.discriminator.autocast():
            assert torch.is_autocast_enabled("cpu")
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
