"""Two processes with half the batch each play the game of one, write it down once, and go on with it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import PartialState
from conftest import BOS, PAD, VOCAB_SIZE
from datasets import Dataset
from peft import LoraConfig
from several import free_port, in_processes
from test_exactness import EVERY_TERM, NO_STEP_FROM_NOTHING
from test_interruption import SignalAt
from test_recipes import recipe
from test_trainer import config, texts
from transformers import Trainer, TrainerCallback

from seqgan_hf import SeqGANTrainer
from seqgan_hf.checkpoints import checkpoints_in
from seqgan_hf.interruption import Interrupted
from seqgan_hf.loading import switch_off_dropout
from seqgan_hf.models import LikelihoodRatioForSequenceClassification
from seqgan_hf.pretraining import pretrain_generator
from seqgan_hf.processes import add_gradients, from_first, largest, process_index, put_together, share_of

ROUNDS = 5


def new_trainer(
    tiny_model,
    folder,
    generator="lstm",
    judge="cnn",
    dataset=None,
    callbacks=None,
    lora=False,
    eval_dataset=None,
    **settings,
):
    defaults = {"max_steps": ROUNDS, "discriminator_samples": 8, "output_dir": str(folder)} | NO_STEP_FROM_NOTHING
    judge = tiny_model(judge)
    switch_off_dropout(judge)  # each process would draw other units for other texts
    if settings.get("discriminator_loss") == "pairwise":
        judge.classifier.bias.requires_grad_(
            False
        )  # no pair depends on it, and Adam makes steps of what is only rounded
    trainer = SeqGANTrainer(
        tiny_model(generator),
        judge,
        config(folder, **(defaults | settings)),
        train_dataset=texts(count=40) if dataset is None else dataset,
        eval_dataset=texts(count=7) if eval_dataset is None else eval_dataset,
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=2, init_lora_weights=False) if lora else None,
        callbacks=callbacks,
    )
    for group in trainer.discriminator.optimizer.param_groups:
        group |= {"eps": NO_STEP_FROM_NOTHING["adam_epsilon"], "lr": 1e-2}
    return trainer


def outcome(trainer):
    """Return what a game leaves behind, in a form that goes through a pipe."""
    networks = [
        {name: value.tolist() for name, value in model.state_dict().items()}
        for model in (trainer.model, trainer.discriminator.model)
    ]
    return networks, trainer.state.log_history


def play(tiny_model, folder, resume=None, **settings):
    trainer = new_trainer(tiny_model, folder, **settings)
    trainer.train(resume_from_checkpoint=resume)
    held_out = {name: value for name, value in trainer.evaluate().items() if name in ("eval_nll", "eval_perplexity")}
    networks, log = outcome(trainer)
    return networks, [*log, held_out]


def assert_same(one, other):
    for expected, found in zip(one[0], other[0], strict=True):
        for name in expected:
            torch.testing.assert_close(torch.tensor(found[name]), torch.tensor(expected[name]), rtol=1e-4, atol=2e-5)
    for expected, found in zip(one[1], other[1], strict=True):
        assert expected.keys() == found.keys()
        for name in expected:
            # The mean over batches that `Trainer` takes counts what fills the last one up.
            if (
                "second" not in name
                and not name.startswith("train_")
                and "runtime" not in name
                and name != "eval_loss"
            ):
                assert found[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-4), name


def ragged_prompts():
    draw = torch.Generator().manual_seed(4)
    return Dataset.from_dict(
        {
            part: [torch.randint(3, VOCAB_SIZE, (1 + row % most,), generator=draw).tolist() for row in range(40)]
            for part, most in (("prompt_ids", 4), ("completion_ids", 6))
        }
    )


GAMES = {
    "every term": {},
    "gpt2": {"generator": "gpt2"},
    # At the rate of the others rounding grows a thousandfold in five rounds, past the tolerance on some processors.
    "llama, checkpointing": {"generator": "llama", "gradient_checkpointing": True, "learning_rate": 0.03},
    "unused searched for": {"generator": "gpt2", "ddp_find_unused_parameters": True, "mle_coef": 0},
    "adapter": {"generator": "llama", "lora": True},
    "groups": {"num_generations": 2, "baseline": "group_leave_one_out"},
    "difference": {"baseline": "difference", "rollout_update_rate": 0.5},
    "accumulated": {"gradient_accumulation_steps": 2},
    "shuffled": {"reward_control": "shuffled"},
    "random": {"reward_control": "random"},
    "cross-fitting, replay": {"discriminator_data": "cross_fit", "discriminator_replay": 0.5},
    "pairs": {"discriminator_loss": "pairwise", "discriminator_samples": 7, "reward": "logit"},
    "odd sets": {"discriminator_samples": 7, "discriminator_batch_size": 5, "judge": "roberta"},
    "ragged prompts": {"dataset": ragged_prompts()},
    "stream": {"dataset": texts(count=40).to_iterable_dataset(), "discriminator_holdout": 0.01},
    "stream in shards": {
        "dataset": texts(count=40).to_iterable_dataset(num_shards=3), "discriminator_holdout": 0.01,
        "eval_dataset": texts(count=7).to_iterable_dataset(num_shards=3),
    },
}  # fmt: skip


@pytest.mark.parametrize("game", GAMES)
def test_two_processes_play_the_game_of_one(game, tiny_model, tmp_path):
    settings = EVERY_TERM | GAMES[game]
    one = play(tiny_model, tmp_path / "one", **settings, per_device_train_batch_size=8)
    settings["per_device_train_batch_size"] = 4
    first, second = in_processes(2, lambda: play(tiny_model, tmp_path / "two", **settings))
    assert first[0] == second[0], "both have the same networks, to the bit"
    assert_same(one, first)


@pytest.mark.parametrize("evaluated_by", ["the trainer itself", "another one"])
def test_a_model_that_was_evaluated_before_learns_from_all_processes(evaluated_by, tiny_model, tmp_path):
    """accelerate took it for prepared, left it out of data parallel, and every process learned for itself."""

    def evaluate_and_train(folder, batch_size):
        trainer = new_trainer(tiny_model, folder, per_device_train_batch_size=batch_size, max_steps=2)
        if evaluated_by == "another one":
            Trainer(trainer.model, trainer.args, eval_dataset=texts()).accelerator.prepare_model(
                trainer.model, evaluation_mode=True
            )
        else:
            trainer.evaluate()
        trainer.train()
        return outcome(trainer)[0], []

    one = evaluate_and_train(tmp_path / "one", 8)
    first, second = in_processes(2, evaluate_and_train, tmp_path / "two", 4)
    assert first == second
    assert_same(one, first)


def test_a_discriminator_that_reads_the_generator_learns_alike(tiny_model, tmp_path):
    def ratio(name):
        if name != "ratio":
            return tiny_model(name)
        return LikelihoodRatioForSequenceClassification.from_language_models(
            [tiny_model("lstm"), tiny_model("lstm")], start_token_id=BOS, pad_token_id=PAD, hidden_size=4
        )

    settings = {"judge": "ratio", "num_rollouts": 0, "baseline": "difference"}
    one = play(ratio, tmp_path / "one", **settings, per_device_train_batch_size=8)
    first, second = in_processes(2, lambda: play(ratio, tmp_path / "two", **settings, per_device_train_batch_size=4))
    assert first[0] == second[0]
    assert_same(one, first)


def test_two_processes_save_one_checkpoint_and_go_on_from_it_exactly(tiny_model, tmp_path):
    settings = EVERY_TERM | {"save_strategy": "steps", "save_steps": 2, "discriminator_replay": 0.5}

    def whole():
        return play(tiny_model, tmp_path / "whole", **settings)

    def resumed():
        folder = tmp_path / "parts"
        new_trainer(tiny_model, folder, **settings, callbacks=[StopAfter(3)]).train()
        return play(tiny_model, folder, resume=True, **settings)

    expected, found = in_processes(2, whole), in_processes(2, resumed)
    assert found[0][0] == expected[0][0] == expected[1][0], "to the bit"
    assert [path.name for path in checkpoints_in(tmp_path / "parts")] == [
        "checkpoint-2",
        "checkpoint-4",
        "checkpoint-5",
    ]
    names = {path.name for path in (tmp_path / "parts" / "checkpoint-4").iterdir()}
    assert {"rng_state_0.pth", "rng_state_1.pth", "seqgan_state.pt", "trainer_state.json"} <= names
    assert not (tmp_path / "parts" / "_saving").exists()


def test_one_process_goes_on_with_what_two_began(tiny_model, tmp_path):
    settings = EVERY_TERM | {"save_strategy": "steps", "save_steps": 2}
    one = play(tiny_model, tmp_path / "one", **settings, per_device_train_batch_size=8)
    folder = tmp_path / "two"
    begin = lambda: new_trainer(tiny_model, folder, **settings, callbacks=[StopAfter(2)]).train() and None  # noqa: E731
    in_processes(2, begin)
    assert_same(one, play(tiny_model, folder, resume=True, **settings, per_device_train_batch_size=8))


@pytest.mark.parametrize("who", [0, 1])
def test_a_signal_to_one_process_ends_all_after_the_same_update(who, tiny_model, tmp_path):
    def interrupted():
        sent = [SignalAt(signal.SIGTERM, step=1)] if process_index_of_environment() == who else []
        trainer = new_trainer(tiny_model, tmp_path, callbacks=sent)
        try:
            trainer.train()
        except Interrupted as error:
            return trainer.state.global_step, error.code
        return "not interrupted"

    assert in_processes(2, interrupted) == [(2, 128 + signal.SIGTERM)] * 2
    assert [path.name for path in checkpoints_in(tmp_path)] == ["checkpoint-2"]


def process_index_of_environment():
    return int(os.environ["RANK"])


class StopAfter(TrainerCallback):
    """End a run early, with a checkpoint, as if it had been killed behind it."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_training_stop = True


def test_a_loss_that_is_not_finite_on_one_process_stops_all(tiny_model, tmp_path):
    def stopped():
        trainer = new_trainer(tiny_model, tmp_path)
        loss = trainer._parts_of_update

        def spoilt(*args):
            parts = loss(*args)
            if process_index() == 1:
                parts[0]["advantages"] = parts[0]["advantages"] * float("inf")
            return parts

        trainer._parts_of_update = spoilt
        with pytest.raises(FloatingPointError, match="The generator's loss is"):
            trainer.train()
        return trainer.state.global_step

    assert in_processes(2, stopped) == [0, 0]


def test_only_the_first_process_shows_and_writes(tiny_model, tmp_path, capfd):
    settings = {"log_completions": True, "disable_tqdm": False, "max_steps": 1}
    in_processes(2, lambda: new_trainer(tiny_model, tmp_path, **settings).train() and None)
    out, err = capfd.readouterr()
    assert out.count("P(real)") == 1 and err.count("Discriminator warm-up:   0%") == 1 and err.count("Map:   0%") == 2
    assert len(list((tmp_path / "completions").iterdir())) == 1


def test_networks_that_were_drawn_apart_begin_alike(tiny_model, tmp_path):
    def first_weights():
        torch.manual_seed(process_index_of_environment())
        model = torch.nn.Linear(3, 2)
        alike = tiny_model("lstm")
        for weight in alike.parameters():
            torch.nn.init.normal_(weight)
        trainer = new_trainer(lambda name: alike if name == "lstm" else tiny_model(name), tmp_path, beta=0.1)
        return model.weight.tolist(), outcome(trainer)[0], trainer.reference.state_dict()["lm_head.weight"].tolist()

    first, second = in_processes(2, first_weights)
    assert first[0] != second[0] and first[1:] == second[1:]


def test_sets_of_fewer_texts_than_processes_are_refused(tiny_model, tmp_path):
    def refused():
        with pytest.raises(ValueError) as error:
            new_trainer(tiny_model, tmp_path, discriminator_samples=1)
        return str(error.value)

    message = (
        "`discriminator_samples` must be at least the number of processes (2), each of which writes its share of a set; "
        "got 1."
    )
    assert in_processes(2, refused) == [message] * 2


def test_shares_are_neighbours_and_together_everything():
    def put():
        PartialState(cpu=True)
        shares = [(share.start, share.stop) for share in map(share_of, (7, 2, 1, 0))]
        mine = share_of(7)
        rows = torch.arange(7.0)[mine] + 1
        return (
            shares,
            put_together(rows, mine, 7).tolist(),
            largest(process_index(), torch.device("cpu")),
            from_first(lambda: f"said by {process_index()}"),
        )

    results = in_processes(3, put)
    assert [shares for shares, *_ in results] == [
        [(0, 2), (0, 0), (0, 0), (0, 0)], [(2, 4), (0, 1), (0, 0), (0, 0)], [(4, 7), (1, 2), (0, 1), (0, 0)]
    ]  # fmt: skip
    assert [rest for _, *rest in results] == [[[1, 2, 3, 4, 5, 6, 7], 2, "said by 0"]] * 3


def test_gradients_of_weights_that_nobody_used_stay_none():
    def added():
        PartialState(cpu=True)
        model = torch.nn.ModuleList(torch.nn.Linear(1, 1, bias=False) for _ in range(3))
        used = [0, 1] if process_index() == 0 else [0]
        sum(model[index].weight.sum() * (process_index() + 2) for index in used).backward()
        add_gradients(model)
        return [None if layer.weight.grad is None else layer.weight.grad.item() for layer in model]

    assert in_processes(2, added) == [[5.0, 2.0, None]] * 2


# ---- Recipes and launchers -----------------------------------------------------------------------------------------

SMALL = [
    "--preset", "smoke", "--mle_epochs", "2", "--mle_batch_size", "8", "--max_steps", "2", "--num_rollouts", "1",
    "--discriminator_warmup_steps", "1", "--discriminator_samples", "8", "--num_test_samples", "20",
    "--logging_steps", "1", "--hidden_size", "4", "--embedding_size", "4", "--temperatures", "0.8",
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "flags", "measure"),
    [
        ("synthetic_oracle", ["--num_texts", "40", "--num_validation_texts", "20"], "NLL_test"),
        (
            "nottingham_music",
            ["--mle_epochs", "1", "--max_steps", "1", "--max_samples", "80"],
            "nll",
        ),
    ],
)
def test_a_recipe_on_two_processes_reports_what_one_would(name, flags, measure, tmp_path):
    def run(folder, batch_size):
        sizes = ["--output_dir", str(folder), "--per_device_train_batch_size", str(batch_size)]
        recipe(name)([*SMALL, *flags, *sizes])

    run(tmp_path / "one", 8)
    in_processes(2, run, tmp_path / "two", 4)
    one, first = (json.loads((tmp_path / folder / "metrics.json").read_text()) for folder in ("one", "two"))
    assert first["first_stage"]["nll"] == pytest.approx(one["first_stage"]["nll"], rel=1e-5)
    assert first["stages"].keys() >= one["stages"].keys()
    for stage in one["stages"].keys() & {"MLE", "SeqGAN"}:
        assert first["stages"][stage][measure] == pytest.approx(one["stages"][stage][measure], rel=1e-3), stage
    if name == "nottingham_music":
        assert len(list((tmp_path / "two" / "melodies").rglob("*.mid"))) > 0


def test_texts_of_an_update_that_processes_cannot_share_are_refused(tiny_model, tmp_path):
    def refused():
        with pytest.raises(ValueError) as error:
            pretrain_generator(tiny_model("lstm"), texts(), texts(), output_dir=tmp_path, batch_size=7)
        return str(error.value)

    message = (
        "`batch_size` is that of all processes together, so it must be a multiple of their number, 2; got 7. A recipe "
        "has it as `mle_batch_size`."
    )
    assert in_processes(2, refused) == [message] * 2


@pytest.mark.parametrize(
    "launcher",
    [
        ["torchrun", "--nproc_per_node", "2", "--master_port", "{port}"],
        ["accelerate", "launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "{port}"],
    ],
    ids=lambda launcher: launcher[0],
)
def test_launchers_start_two_processes_that_play_one_game(launcher, tmp_path):
    program, *flags = [part.format(port=free_port()) for part in launcher]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [Path(sys.executable).with_name(program), *flags, Path(__file__).with_name("play_a_round.py"), tmp_path / "run"],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Played on 2 processes.") == 1
    assert {path.name for path in tmp_path.glob("run/checkpoint-1/rng_state_*")} == {
        "rng_state_0.pth",
        "rng_state_1.pth",
    }


def test_deepspeed_is_refused(tiny_model, tmp_path, monkeypatch):
    args = config(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ValueError, match="DeepSpeed is not supported: each process writes with the whole generator"):
        SeqGANTrainer(tiny_model("lstm"), tiny_model("cnn"), args, train_dataset=texts())


def test_other_ways_to_cut_a_model_are_refused_in_both_stages(tiny_model, tmp_path, monkeypatch):
    args = config(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_PARALLELISM_CONFIG", "true")
    message = "Tensor or context parallelism is not supported: each process writes with the whole generator"
    with pytest.raises(ValueError, match=message):
        SeqGANTrainer(tiny_model("lstm"), tiny_model("cnn"), args, train_dataset=texts())
    with pytest.raises(ValueError, match=message):
        pretrain_generator(tiny_model("lstm"), texts(), texts(), output_dir=tmp_path)
