"""A generator that learns in shards plays the game of one that is whole, is saved as such, and goes on as such."""

import gc
import os
import weakref

import pytest
import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from several import in_processes
from test_exactness import EVERY_TERM, NO_STEP_FROM_NOTHING
from test_processes import assert_same, new_trainer, outcome
from test_trainer import texts
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import TrainingArguments

from seqgan_hf.checkpoints import checkpoints_in
from seqgan_hf.launch import require_not_quantised
from seqgan_hf.loading import load_discriminator, switch_off_dropout
from seqgan_hf.pretraining import pretrain_generator
from seqgan_hf.shards import ShardedTrainer


def in_shards(work, *args, version=2):
    """Call a function in two processes, launched with FSDP, and return what each of them returns."""
    return in_processes(2, _launched_with_fsdp, version, work, args)


def _launched_with_fsdp(version, work, args):
    """accelerate shards nothing on a CPU. So let it take this one for an accelerator; what it then does is FSDP2."""
    os.environ |= {
        "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": str(version), "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": str(version == 2).lower(),
    }  # fmt: skip
    init = ShardedTrainer.__init__

    def taken_for_an_accelerator(*args, **kwargs):
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_XPU
        init(*args, **kwargs)

    ShardedTrainer.__init__ = taken_for_an_accelerator
    return work(*args)


def play(tiny_model, folder, resume=None, sharded=True, **settings):
    # The head is not split off shards, so their logits are rounded otherwise: steps that are a tenth make less of it.
    trainer = new_trainer(tiny_model, folder, **{"learning_rate": 0.01, **settings})
    before = trainer.evaluate()["eval_nll"]
    trainer.train(resume_from_checkpoint=resume)
    parts = [parameter for parameter in trainer.model_wrapped.parameters() if isinstance(parameter, DTensor)]
    assert bool(parts) == sharded == isinstance(trainer.model_wrapped, FSDPModule)
    assert not any(isinstance(parameter, DTensor) for parameter in trainer.model.parameters())
    held_out = {"eval_nll": trainer.evaluate()["eval_nll"], "before": before}
    networks, log = outcome(trainer)
    return networks, [*log, held_out]


GAMES = {
    "lstm": {},
    "gpt2": {"generator": "gpt2"},  # its head is its embedding
    "llama, checkpointing": {"generator": "llama", "gradient_checkpointing": True},
    "adapter": {"generator": "llama", "lora": True},
    "delayed": {"rollout_update_rate": 0.5, "baseline": "difference"},
    "accumulated": {"gradient_accumulation_steps": 2},
}


@pytest.mark.parametrize("game", GAMES)
def test_shards_play_the_game_of_one_process(game, tiny_model, tmp_path):
    settings = EVERY_TERM | GAMES[game]
    one = play(tiny_model, tmp_path / "one", sharded=False, **settings, per_device_train_batch_size=8)
    first, second = in_shards(lambda: play(tiny_model, tmp_path / "two", **settings))
    assert first[0] == second[0], "both have the same networks, to the bit"
    assert_same(one, first)


def test_each_process_has_a_part_of_what_learns(tiny_model, tmp_path):

    def sizes():
        trainer = new_trainer(tiny_model, tmp_path, "gpt2", max_steps=1)
        trainer.train()
        learning = [parameter.to_local().numel() for parameter in trainer.model_wrapped.parameters()]
        moments = [state["exp_avg"].to_local().numel() for state in trainer.optimizer.state.values()]
        return sum(parameter.numel() for parameter in trainer.model.parameters()), sum(learning), sum(moments)

    (whole, *first), (_, *second) = in_shards(sizes)
    assert first[0] + second[0] == first[1] + second[1] == whole and abs(first[0] - second[0]) < 0.1 * whole


@pytest.mark.parametrize("generator", ["gpt2", "llama"])
def test_a_checkpoint_of_shards_is_that_of_one_process(generator, tiny_model, tmp_path):
    settings = EVERY_TERM | {"save_strategy": "steps", "save_steps": 3, "generator": generator}
    settings |= {"lora": generator == "llama", "rollout_update_rate": 0.5}
    one = play(tiny_model, tmp_path / "one", sharded=False, **settings, per_device_train_batch_size=8)
    whole, _ = in_shards(lambda: play(tiny_model, tmp_path / "two", **settings))
    checkpoint = checkpoints_in(tmp_path / "two")[0]
    again, _ = in_shards(lambda: play(tiny_model, tmp_path / "again", resume=str(checkpoint), **settings))
    settings["per_device_train_batch_size"] = 8
    alone = play(tiny_model, tmp_path / "alone", resume=str(checkpoint), sharded=False, **settings)
    assert again[0] == whole[0], "resumed as if it had not been interrupted, to the bit"
    assert_same(one, alone)
    folders = [checkpoints_in(tmp_path / name)[0] for name in ("one", "two")]
    names = [{path.name for path in folder.rglob("*")} - {"rng_state.pth"} for folder in folders]
    assert names[1] - names[0] == {"rng_state_0.pth", "rng_state_1.pth"} and not names[0] - names[1]
    states = [torch.load(folder / "optimizer.pt", weights_only=True)["state"] for folder in folders]
    assert states[0].keys() == states[1].keys()
    for index, state in states[0].items():
        for name, value in state.items():
            torch.testing.assert_close(states[1][index][name], value, rtol=1e-3, atol=1e-6)


def test_maximum_likelihood_in_shards_is_that_of_one_process(tiny_model, tmp_path):
    def pretrain(folder):
        model = tiny_model("gpt2")
        switch_off_dropout(model)  # each process would draw other units
        metrics = pretrain_generator(
            model, texts(24), texts(), output_dir=folder, batch_size=8, epochs=3, **NO_STEP_FROM_NOTHING
        )
        return metrics["nll"], model.lm_head.weight.tolist()

    nll, weight = pretrain(tmp_path / "one")
    first, second = in_shards(pretrain, tmp_path / "two")
    assert first == second and first[0] == pytest.approx(nll, rel=1e-4)
    torch.testing.assert_close(torch.tensor(first[1]), torch.tensor(weight), rtol=1e-3, atol=1e-4)


def test_weights_that_differ_are_those_of_the_first_process(tiny_model, tmp_path):
    def emptied():
        model = tiny_model("gpt2")
        if int(os.environ["RANK"]):
            for weight in model.parameters():
                torch.nn.init.zeros_(weight)
        arguments = TrainingArguments(output_dir=str(tmp_path), report_to="none")
        return ShardedTrainer(model=model, args=arguments).model.lm_head.weight.abs().mean().item()

    first, second = in_shards(emptied)
    assert first == second > 0.01


def test_networks_are_read_by_every_process_with_what_is_new_in_them(tiny_model, tmp_path):
    """Launched with FSDP, transformers left a classifier's new head without a place in all processes but the first."""
    tiny_model("bert").bert.save_pretrained(tmp_path)

    def read():
        PartialState(cpu=True)
        model = load_discriminator(str(tmp_path))
        return {name for name, weight in model.named_parameters() if weight.is_meta}

    assert in_shards(read) == [set(), set()]


def test_a_second_training_goes_on_with_the_moments_of_the_first(tiny_model, tmp_path):
    def train_twice(folder, batch_size):
        trainer = new_trainer(tiny_model, folder, max_steps=2, per_device_train_batch_size=batch_size)
        trainer.train()
        trainer.train()
        return outcome(trainer)[0], []

    one = train_twice(tmp_path / "one", 8)
    first, second = in_shards(train_twice, tmp_path / "two", 4)
    assert first == second
    assert_same(one, first)


def test_a_checkpoint_of_weights_alone_is_written(tiny_model, tmp_path):
    settings = {"save_only_model": True, "save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    in_shards(lambda: new_trainer(tiny_model, tmp_path, **settings).train() and None)
    (checkpoint,) = checkpoints_in(tmp_path)
    assert (checkpoint / "model.safetensors").is_file() and not (checkpoint / "optimizer.pt").exists()


def test_shards_go_with_their_trainer(tiny_model, tmp_path):
    """A callback that knew its trainer kept it, and the shards and moments of the first stage, into the second."""

    def is_gone():
        arguments = TrainingArguments(output_dir=str(tmp_path), report_to="none", disable_tqdm=True)
        trainer = ShardedTrainer(model=tiny_model("gpt2"), args=arguments)
        gone = weakref.ref(trainer)
        gc.disable()
        del trainer
        return gone() is None

    assert in_shards(is_gone) == [True, True]


def refused(tiny_model, tmp_path):
    with pytest.raises(ValueError) as error:
        new_trainer(tiny_model, tmp_path)
    return str(error.value)


def test_shards_that_accelerate_does_not_make_are_refused(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    message = (
        "FSDP was asked for, and accelerate shards nothing here: it takes GPUs, a launcher, and `fsdp` in the first "
        "stage where it is in the second; got 1 processes on cpu. Launch with recipes/accelerate/fsdp2.yaml, which "
        "shards it, or recipes/accelerate/ddp.yaml, which does not."
    )
    assert refused(tiny_model, tmp_path) == message


def test_the_first_version_of_fsdp_is_refused(tiny_model, tmp_path):
    message = "FSDP is supported in its version 2; got `fsdp_version: 1`. Launch with recipes/accelerate/fsdp2.yaml"
    assert all(said.startswith(message) for said in in_shards(refused, tiny_model, tmp_path, version=1))


def test_a_quantised_generator_in_shards_is_refused(tiny_model):
    model = tiny_model("llama")
    require_not_quantised(model)
    model.is_quantized = True  # as `from_pretrained` says it
    with pytest.raises(ValueError, match="A quantised generator cannot learn in shards: it is small enough"):
        require_not_quantised(model)


def test_shards_on_the_cpu_of_a_gpu_are_refused(tiny_model, tmp_path):
    def refused_of_offloaded():
        os.environ["FSDP_OFFLOAD_PARAMS"] = "true"
        return refused(tiny_model, tmp_path)

    assert all(said.startswith("`fsdp_offload_params` is not supported") for said in in_shards(refused_of_offloaded))
