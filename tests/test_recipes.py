"""The recipes and the README's code, run as a user runs them, only smaller."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import SENTENCES
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

from seqgan_hf import SeqGANConfig
from seqgan_hf.arguments import TextRecipeArguments
from seqgan_hf.recipe import announce_game

ROOT = Path(__file__).parent.parent


def recipe(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "recipes" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture
def quick(tmp_path):
    return [
        "--output_dir", str(tmp_path / "run"), "--mle_epochs", "1", "--max_steps", "2", "--num_rollouts", "1",
        "--discriminator_warmup_steps", "1", "--discriminator_samples", "8", "--num_test_samples", "20",
        "--per_device_train_batch_size", "4", "--logging_steps", "1", "--disable_tqdm", "true",
    ]  # fmt: skip


def test_the_sample_recipe_reports_and_saves_a_loadable_pair(quick, tmp_path, capsys):
    recipe("obama_speech")(["--sample", *quick])
    printed = capsys.readouterr().out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for stage in ("MLE", "SeqGAN"):
        assert set(metrics["stages"][stage]) == {"nll", "perplexity", "bleu2", "bleu3", "bleu4"}
        assert f"{metrics['stages'][stage]['nll']:.4f}" in printed
    assert len(metrics["samples"]) == 5 and metrics["samples"][0].split()[0] in printed
    assert f"Saved: generator in {tmp_path / 'run'}" in printed
    generator = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "mle")
    assert not torch.equal(generator.lm_head.weight, saved.lm_head.weight)
    assert (tmp_path / "run" / "discriminator" / "config.json").is_file()
    assert (tmp_path / "run" / "curves.png").is_file()


def test_a_resumed_recipe_takes_its_first_stage_from_disk(quick, tmp_path, capsys):
    run = recipe("obama_speech")
    run(["--sample", *quick, "--save_strategy", "steps", "--save_steps", "1"])
    shutil.rmtree(tmp_path / "run" / "checkpoint-2")
    first = json.loads((tmp_path / "run" / "metrics.json").read_text())
    capsys.readouterr()
    run(["--sample", *quick, "--resume_from_checkpoint", "true"])
    assert "Stage 1" not in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["stages"] == first["stages"]


def test_the_synthetic_recipe_reports_both_likelihoods(quick, tmp_path, capsys):
    recipe("synthetic_oracle")(["--preset", "smoke", *quick, "--num_texts", "200", "--mle_epochs", "12"])
    stages = json.loads((tmp_path / "run" / "metrics.json").read_text())["stages"]
    assert list(stages) == ["MLE", "MLE, temperature 0.75", "SeqGAN"]
    assert all(5 < stage[name] < 12 for stage in stages.values() for name in ("NLL_oracle", "NLL_test"))
    assert stages["MLE, temperature 0.75"]["NLL_oracle"] < stages["MLE"]["NLL_oracle"]
    assert "NLL_oracle" in capsys.readouterr().out


def saved_networks(folder, tokenizer, **llama):
    sizes = {
        "vocab_size": len(tokenizer),
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
    }
    special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    # On a CPU, bitsandbytes needs widths that are multiples of its blocks of 64.
    widths = {"hidden_size": 64, "intermediate_size": 128}
    for name, network in {
        "llama": LlamaForCausalLM(LlamaConfig(**sizes, **special, **widths)),
        "bert": BertForSequenceClassification(BertConfig(**sizes, **widths, pad_token_id=tokenizer.pad_token_id)),
    }.items():
        network.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    (folder / "texts.txt").write_text("\n".join(SENTENCES * 6))
    names = {"dataset_name": "texts.txt", "model_name_or_path": "llama", "discriminator_name_or_path": "bert"}
    return [part for name, value in names.items() for part in (f"--{name}", str(folder / value))]


@pytest.mark.parametrize("precision", [[], ["--load_in_4bit"]], ids=["full", "4bit"])
def test_a_recipe_trains_adapters_through_both_stages(precision, quick, tokenizer, tmp_path, capsys):
    if precision:
        pytest.importorskip("bitsandbytes")
    flags = [
        "--use_peft",
        "--discriminator_use_peft",
        "--lora_r",
        "2",
        "--beta",
        "0.1",
        "--max_completion_length",
        "8",
    ]
    recipe("obama_speech")([*saved_networks(tmp_path, tokenizer), *flags, *precision, *quick, "--bf16", "false"])
    weights = {path.name for path in (tmp_path / "run").glob("*.safetensors")}
    assert weights == {"adapter_model.safetensors"}
    assert (tmp_path / "run" / "discriminator" / "adapter_model.safetensors").is_file()
    trained, first = (load_file(tmp_path / "run" / place / "adapter_model.safetensors") for place in ("", "mle"))
    assert any(not torch.equal(trained[name], first[name]) for name in first)
    stages = json.loads((tmp_path / "run" / "metrics.json").read_text())["stages"]
    assert set(stages) == {"MLE", "MLE, temperature 0.75", "SeqGAN"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"from_scratch": True, "use_peft": True},
            "`from_scratch` makes new networks, and an adapter needs one that was trained. Leave out `use_peft`",
        ),
        (
            {"load_in_4bit": True},
            "`load_in_4bit` freezes the generator, so there must be an adapter: add `--use_peft`.",
        ),
    ],
)
def test_adapters_of_nothing_are_refused(flags, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        TextRecipeArguments(dataset_name="x", **flags)


def test_the_bundled_text_is_varied_and_plain():
    lines = (ROOT / "recipes" / "data" / "sample_speech.txt").read_text(encoding="ascii").splitlines()
    assert len(lines) >= 400 and len(set(lines)) == len(lines)
    assert all(6 <= len(line.split()) <= 28 for line in lines)


@pytest.mark.parametrize(("steps", "said"), [(7, "7 updates of the generator."), (-1, "2 epochs.")])
def test_the_length_of_the_game_is_announced(steps, said, tmp_path, capsys):
    announce_game(SeqGANConfig(output_dir=str(tmp_path), max_steps=steps, num_train_epochs=2))
    assert f"Stage 2 of 2: SeqGAN, {said}" in capsys.readouterr().out
