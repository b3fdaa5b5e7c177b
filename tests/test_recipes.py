"""The recipes and the README's code, run as a user runs them, only smaller."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import SENTENCES
from transformers import AutoModelForCausalLM

from seqgan_hf import LSTMConfig, LSTMForCausalLM, TextCNNConfig, TextCNNForSequenceClassification
from seqgan_hf.arguments import TextRecipeArguments
from seqgan_hf.recipe import load_splits

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
    recipe("synthetic_oracle")(["--preset", "smoke", *quick, "--num_texts", "200"])
    stages = json.loads((tmp_path / "run" / "metrics.json").read_text())["stages"]
    assert list(stages) == ["MLE", "MLE, temperature 0.75", "SeqGAN"]
    assert all(5 < stage[name] < 12 for stage in stages.values() for name in ("NLL_oracle", "NLL_test"))
    assert stages["MLE, temperature 0.75"]["NLL_oracle"] < stages["MLE"]["NLL_oracle"]
    assert "NLL_oracle" in capsys.readouterr().out


def arguments(path, **kwargs):
    return TextRecipeArguments(dataset_name=str(path), **kwargs)


def test_missing_splits_are_cut_from_the_training_texts_without_overlap(tmp_path):
    (tmp_path / "speech.txt").write_text("\n".join(f"text {i}" for i in range(50)) + "\n\n   \n")
    splits = load_splits(arguments(tmp_path / "speech.txt"), seed=1)
    assert {name: len(split) for name, split in splits.items()} == {"train": 40, "validation": 5, "test": 5}
    assert len({text for split in splits.values() for text in split["text"]}) == 50


def test_rows_and_columns_are_chosen(tmp_path):
    rows = [{"potus": "A" if i % 2 else "B", "speech": f"text {i}"} for i in range(60)]
    (tmp_path / "s.jsonl").write_text("\n".join(map(json.dumps, rows)))
    splits = load_splits(
        arguments(tmp_path / "s.jsonl", text_column="speech", keep_rows="potus=A", max_samples=7), seed=1
    )
    assert len(splits["train"]) == 7
    assert all(int(text.split()[1]) % 2 for split in splits.values() for text in split["text"])


def test_whole_speeches_are_split_into_paragraphs(tmp_path):
    rows = [{"text": "\n\n".join(f"speech {i} paragraph {j}" for j in range(4))} for i in range(5)]
    (tmp_path / "s.jsonl").write_text("\n".join(map(json.dumps, rows)))
    splits = load_splits(arguments(tmp_path / "s.jsonl", split_paragraphs=True), seed=1)
    assert sum(map(len, splits.values())) == 20


def test_a_wrong_column_or_filter_is_refused(tmp_path):
    (tmp_path / "s.jsonl").write_text('{"speech": "a"}\n{"speech": "b"}\n')
    message = "needs a split `train` with the column `text`; got splits ['train'] and columns ['speech']."
    with pytest.raises(ValueError, match=re.escape(message)):
        load_splits(arguments(tmp_path / "s.jsonl"), seed=1)
    with pytest.raises(ValueError, match=re.escape("`--keep_rows` must be COLUMN=VALUE with one of the columns")):
        load_splits(arguments(tmp_path / "s.jsonl", text_column="speech", keep_rows="potus=A"), seed=1)


def test_the_readmes_python_fine_tunes_the_readers_model(tokenizer, tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(code.splitlines()) <= 16
    sizes = {"vocab_size": len(tokenizer)}
    networks = {
        "openai-community/gpt2": LSTMForCausalLM(LSTMConfig(**sizes)),
        "distilbert/distilroberta-base": TextCNNForSequenceClassification(
            TextCNNConfig(**sizes, filter_sizes=(2,), num_filters=(4,))
        ),
    }
    for number, (name, network) in enumerate(networks.items()):
        network.save_pretrained(tmp_path / str(number))
        tokenizer.save_pretrained(tmp_path / str(number))
        assert name in code
        code = code.replace(name, str(tmp_path / str(number)))
    for name in ("train", "test"):
        (tmp_path / f"{name}.txt").write_text("\n".join(SENTENCES) + "\n")
    monkeypatch.chdir(tmp_path)
    smaller = "max_steps=1, discriminator_warmup_steps=1, discriminator_samples=8, save_strategy='no', "
    assert "max_steps=200, " in code
    exec(compile(code.replace("max_steps=200, ", smaller), "README.md", "exec"), {})
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "gpt2-seqgan").config.vocab_size == len(tokenizer)


def test_the_bundled_text_is_varied_and_plain():
    lines = (ROOT / "recipes" / "data" / "sample_speech.txt").read_text(encoding="ascii").splitlines()
    assert len(lines) >= 400 and len(set(lines)) == len(lines)
    assert all(6 <= len(line.split()) <= 28 for line in lines)
