"""`seqgan-hf` as a user types it."""

import dataclasses
import json
import re
import runpy
import sys

import pytest
import torch
import yaml
from conftest import SENTENCES
from datasets import Dataset
from test_plots import entry, save_state, size_of
from transformers import AutoModelForCausalLM

from seqgan_hf import LSTMConfig, LSTMForCausalLM, SeqGANConfig, TextCNNConfig, TextCNNForSequenceClassification
from seqgan_hf.arguments import EvaluateArguments, SampleArguments, TextRecipeArguments
from seqgan_hf.cli import main
from seqgan_hf.completions import one_line
from seqgan_hf.corpora import load_held_out
from seqgan_hf.data import TextFormat
from seqgan_hf.discriminator import Discriminator
from seqgan_hf.evaluation import evaluate_generator
from seqgan_hf.flags import parse_config
from seqgan_hf.loading import load_generator
from seqgan_hf.samples import complete_prompts, load_saved_discriminator


@pytest.fixture
def generator(tokenizer):
    special = {
        "vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    return LSTMForCausalLM(LSTMConfig(**special, initializer_range=0.7)).eval()


@pytest.fixture
def pair(generator, tokenizer, tmp_path):
    """Save a generator with its discriminator, as the trainer does, and return the folder."""
    folder = tmp_path / "pair"
    generator.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    cnn = TextCNNForSequenceClassification(
        TextCNNConfig(
            vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, filter_sizes=(1, 2), num_filters=(8, 8)
        )
    )
    judge = Discriminator(cnn.eval(), tokenizer, None, False, tokenizer.pad_token_id, len(tokenizer))
    judge.save(folder / "discriminator")
    return str(folder)


@pytest.fixture
def speeches(tmp_path):
    """Write a folder of texts in two splits, and return it."""
    folder = tmp_path / "speeches"
    folder.mkdir()
    for name in ("train", "test"):
        (folder / f"{name}.txt").write_text("\n".join(f"{text} {name}" for text in SENTENCES) + "\n")
    return str(folder)


@pytest.fixture
def run(capsys):
    """Return a function that runs a command and gives what it prints."""

    def run(*argv):
        capsys.readouterr()
        main([str(arg) for arg in argv])
        return capsys.readouterr().out

    return run


@pytest.fixture
def refused(capsys):
    """Return a function that runs a command, which must end with exactly this message on stderr and this code."""

    def refused(message, *argv, code=1):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(arg) for arg in argv])
        assert stop.value.code == code
        last = capsys.readouterr().err.splitlines()[-1]
        assert last == message

    return refused


# ---- config -----------------------------------------------------------------------------------------------------


def test_the_settings_as_yaml_are_the_defaults(run, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(run("config"), encoding="utf-8")
    (config,) = parse_config((SeqGANConfig,), [str(path)])
    assert config.to_dict() == SeqGANConfig().to_dict()
    args, config = parse_config((TextRecipeArguments, SeqGANConfig), [str(path), "--dataset_name", "x", "--beta", "1"])
    assert (args.dataset_name, config.beta, config.num_rollouts) == ("x", 1.0, 16)


def test_every_setting_stands_there_with_its_help_our_own_first(run):
    text = run("config")
    fields = {field.name: field for field in dataclasses.fields(SeqGANConfig) if field.init}
    written = list(yaml.safe_load(text))
    assert sorted(written) == sorted(fields)
    heading = text.index("# Settings of transformers.TrainingArguments, as they are there.")
    assert text.index("\nreward_control:") < heading < text.index("\nseed:")
    assert text.index("\nlearning_rate:") < heading  # ours, because the default is
    comments = " ".join(line[2:] for line in text.splitlines() if line.startswith("# "))
    for field in fields.values():
        assert " ".join(field.metadata["help"].split()) in comments, field.name
    assert all(len(line) <= 119 for line in text.splitlines())


def test_some_settings_can_be_asked_for(run, refused):
    assert run("config", "reward", "long_texts", "reward") == (
        "# What a score of the discriminator is worth: `probability` is P(real) in [0, 1], `logit` its log-odds, "
        "unbounded,\n"
        "# `centered_probability` 2 P(real) - 1 in [-1, 1], `log_probability` log P(real), at most 0.\n"
        "# One of: probability, logit, centered_probability, log_probability.\n"
        "reward: probability\n\n"
        "# What to do with a real text longer than `max_completion_length`: `truncate` it (without EOS, as a generated "
        "one that\n# does not end), or stop with an `error` that names the row.\n"
        "# One of: truncate, error.\n"
        "long_texts: truncate\n"
    )
    strategy = run("config", "eval_strategy")
    assert "# One of: no, steps, epoch.\n" in strategy
    assert yaml.safe_load(strategy) == {"eval_strategy": "no"}  # and not `false`, as YAML reads a bare `no`
    refused(
        "seqgan-hf config: There is no setting `num_rolouts`. Did you mean `num_rollouts`?", "config", "num_rolouts"
    )


# ---- plot -------------------------------------------------------------------------------------------------------


def test_a_run_is_plotted_beside_its_log(run, refused, tmp_path, monkeypatch):
    state = save_state(tmp_path / "run", [entry(1), entry(2)])
    picture = state.parent / "curves.png"
    assert run("plot", state) == run("plot", state.parent) == f"Learning curves: {picture}\n"
    alone = picture.read_bytes()
    other = save_state(tmp_path / "other", [entry(1)])
    monkeypatch.chdir(tmp_path)
    assert run("plot", state, other) == "Learning curves: curves.png\n"
    assert picture.read_bytes() == alone != (tmp_path / "curves.png").read_bytes()
    assert run("plot", state, "-o", tmp_path / "x.png") == f"Learning curves: {tmp_path / 'x.png'}\n"
    assert size_of(tmp_path / "x.png") == (1320, 840)
    refused(
        "seqgan-hf plot: There is no run nowhere. Pass its output_dir, a checkpoint, or a trainer_state.json.",
        "plot", "nowhere",
    )  # fmt: skip


# ---- sample -----------------------------------------------------------------------------------------------------


def test_texts_are_shown_with_the_discriminators_verdict(run, pair):
    lines = run("sample", pair, "-n", 5, "--max_completion_length", 6).splitlines()
    assert lines[0] == "P(real)  text" and len(lines) == 6
    assert all(re.match(r"  [01]\.\d{3}  ", line) for line in lines[1:])
    without = run("sample", pair, "-n", 5, "--max_completion_length", 6, "--no_scores")
    assert without.splitlines() == [line[9:] for line in lines[1:]]


def test_the_length_is_that_of_the_run_unless_it_is_said(run, pair, speeches, tmp_path):
    (tmp_path / "pair" / "training_args.json").write_text('{"max_completion_length": 3}')
    command = ("sample", pair, "-n", 9, "--no_scores")
    assert run(*command) == run(*command, "--max_completion_length", 3) != run(*command, "--max_completion_length", 5)
    out = tmp_path / "evaluation"
    run("evaluate", pair, "--dataset_name", speeches, "--num_samples", 2, "--temperatures", 1, "--output_dir", out)
    assert json.loads((out / "evaluation.json").read_text())["settings"]["max_completion_length"] == 3


def test_texts_repeat_with_their_seed(run, pair):
    command = ("sample", pair, "--max_completion_length", 8, "--seed")
    first = run(*command, 1)
    assert first == run(*command, 1, "--batch_size", 7) != run(*command, 2)
    assert len(first.splitlines()) == 21


def test_texts_are_written_to_a_file_that_load_texts_reads(run, refused, pair, generator, tokenizer, tmp_path):
    path = tmp_path / "new" / "texts.jsonl"
    said = run("sample", pair, "-n", 3, "--prompt", "we open", "--output", path, "--max_completion_length", 4)
    assert said == f"3 texts: {path}\n"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [set(row) for row in rows] == [{"prompt", "completion", "score"}] * 3
    assert all(row["prompt"] == "we open" for row in rows)
    model, text_format = AutoModelForCausalLM.from_pretrained(pair), TextFormat.from_model(generator, tokenizer, 4)
    judge = load_saved_discriminator(pair, "discriminator", model, tokenizer, text_format, reads_prompt=True)
    prompts = [tokenizer("we open")["input_ids"]] * 3
    expected = judge.score(complete_prompts(model, prompts, text_format, seed=42)).sigmoid().tolist()
    assert [row["score"] for row in rows] == pytest.approx(expected, rel=1e-5)
    shown = run("sample", pair, "-n", 3, "--prompt", "we open", "--no_scores", "--max_completion_length", 4)
    assert shown.splitlines() == [one_line(f"we open{row['completion']}") for row in rows]
    refused(
        "seqgan-hf sample: `--output` must end in .jsonl or .txt; got texts.csv.",
        "sample", pair, "--output", "texts.csv",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["gpt2", "lstm"])
def test_a_model_without_a_tokenizer_writes_ids(name, run, refused, tiny_model, tmp_path):
    tiny_model(name).save_pretrained(tmp_path)
    lines = run("sample", tmp_path, "-n", 4, "--max_completion_length", 5).splitlines()
    assert len(lines) == 4 and all(0 <= int(token) < 23 for line in lines for token in line.split())
    refused(
        "seqgan-hf sample: A prompt is text, and the model was saved without a tokenizer to encode it. Leave it out.",
        "sample", tmp_path, "--prompt", "we",
    )  # fmt: skip


def test_an_adapters_texts_are_its_own(run, tiny_model, tmp_path):
    peft = pytest.importorskip("peft")
    tiny_model("gpt2").save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["c_attn"]))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(tmp_path / "adapter")
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    texts = {
        folder: run("sample", tmp_path / folder, "--max_completion_length", 8)
        for folder in ("base", "adapter", "merged")
    }
    assert texts["adapter"] == texts["merged"] != texts["base"]


def test_a_hotter_model_repeats_itself_less(run, pair):
    command = ("sample", pair, "--no_scores", "--max_completion_length", 6, "--temperature")
    cold, hot = (run(*command, temperature) for temperature in (0.05, 5))
    assert len(set(cold.splitlines())) < len(set(hot.splitlines()))


# ---- evaluate ---------------------------------------------------------------------------------------------------


def test_an_evaluation_prints_its_table_and_writes_report_and_picture(
    run, pair, generator, tokenizer, speeches, tmp_path
):
    out = tmp_path / "evaluation"
    command = ("evaluate", pair, "--dataset_name", speeches, "--max_completion_length", 24, "--num_samples", 6)
    printed = run(*command, "--temperatures", 0.5, "--output_dir", out)
    report = json.loads((out / "evaluation.json").read_text())
    texts = Dataset.from_dict({"text": [f"{text} test" for text in SENTENCES]})
    expected = evaluate_generator(generator, texts, tokenizer, 24, [0.5], num_samples=6)
    assert report["held_out"] == pytest.approx(expected["held_out"], rel=1e-5)
    assert [point["samples"] for point in report["sweep"]] == [point["samples"] for point in expected["sweep"]]
    assert (report["settings"]["split"], report["settings"]["model"]) == ("test", "pair")
    lines = printed.splitlines()
    assert lines[0] == f"{pair} on the split `test` of {speeches}"
    assert lines[2].startswith(f"Held-out NLL {report['held_out']['nll']:.4f} nats per token")
    assert [line.split()[0] for line in lines[4:7]] == ["temperature", "0.5", "1"]
    assert lines[-2:] == [f"Report: {out / 'evaluation.json'}", f"Picture: {out / 'sweep.png'}"]
    assert size_of(out / "sweep.png") == (1320, 720)


def test_an_evaluation_needs_no_matplotlib(run, pair, speeches, tmp_path, monkeypatch):
    monkeypatch.setattr("seqgan_hf.cli.is_matplotlib_available", lambda: False)
    out = tmp_path / "evaluation"
    path = tmp_path / "evaluation.yaml"
    path.write_text(f"dataset_name: {speeches}\nnum_samples: 2\ntemperatures: [1]\noutput_dir: {out}\n")
    printed = run("evaluate", pair, path, "--max_completion_length", 4, "--max_samples", 3)
    assert printed.endswith("Picture: (pip install 'seqgan_hf[plots]' to have the sweep drawn)\n")
    assert [file.name for file in out.iterdir()] == ["evaluation.json"]
    assert json.loads((out / "evaluation.json").read_text())["held_out"]["texts"] == 3


def held_out(folder, **kwargs):
    return load_held_out(EvaluateArguments(dataset_name=str(folder), **kwargs))


def test_the_split_is_the_one_asked_for_or_test_or_validation_or_the_only_one(tmp_path, caplog):
    for name in ("test", "validation", "train"):
        (tmp_path / f"{name}.txt").write_text(f"{name}\n")
    for taken in ("test", "validation", "train"):
        texts, split = held_out(tmp_path)
        assert (split, texts["text"][0]) == (taken, taken)
        (tmp_path / f"{taken}.txt").unlink()
    (tmp_path / "train.txt").write_text("a\nb\nc\n")
    texts, split = held_out(tmp_path, split="train[:2]")
    assert (split, list(texts["text"])) == ("train[:2]", ["a", "b"])


def test_texts_that_may_have_been_trained_on_are_warned_of(tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr("seqgan_hf.corpora.logger.warning", warnings.append)
    (tmp_path / "s.txt").write_text("a\n")
    held_out(tmp_path / "s.txt", split="train")
    assert warnings == []
    held_out(tmp_path / "s.txt")
    assert warnings == [
        f"`{tmp_path / 's.txt'}` has one split, `train`, which is taken. The figures mean something only if the model "
        "was not trained on it. Pass `--split train` to silence this."
    ]


def test_rows_are_selected_as_in_the_recipes(tmp_path):
    rows = [{"who": "AB"[i % 2], "speech": f"speech {i}\n\nsecond"} for i in range(8)]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    texts, _ = held_out(tmp_path, text_column="speech", keep_rows="who=A", split_paragraphs=True)
    assert sorted(texts["text"]) == ["second"] * 4 + [f"speech {i}" for i in (0, 2, 4, 6)]
    few = [held_out(tmp_path, text_column="speech", max_samples=3, seed=seed)[0]["text"] for seed in (1, 1, 2)]
    assert list(few[0]) == list(few[1]) != list(few[2]) and len(few[0]) == 3


def test_prompts_and_ids_are_taken_as_they_are(tmp_path):
    rows = [
        {"prompt": "a", "completion": "b", "text": "c"},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "text": "c"},
        {"input_ids": [1, 2], "n": 1},
    ]
    for number, (row, kept) in enumerate(
        zip(rows, (["completion", "prompt"], ["messages"], ["input_ids"]), strict=True)
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "test.jsonl").write_text(json.dumps(row) + "\n")
        assert list(held_out(folder)[0]) == [{name: row[name] for name in kept}]


def test_texts_that_cannot_be_had_are_explained(refused, pair, tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text('{"speech": "x"}\n')
    splits = json.dumps({"a": "a.jsonl", "b": "b.jsonl"})
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: a\n    path: a.jsonl\n"
        "  - split: b\n    path: b.jsonl\n---\n" + splits
    )
    command = ("evaluate", pair, "--output_dir", tmp_path / "out", "--dataset_name", tmp_path)
    refused(
        f"seqgan-hf evaluate: `{tmp_path}` has the splits a, b, and neither `test` nor `validation`. Pass one that the "
        "model was not trained on by `--split`.",
        *command,
    )
    refused(
        f"seqgan-hf evaluate: The split `a` of `{tmp_path}` has no column `text`; it has ['speech']. Pass "
        "`--text_column`.",
        *command, "--split", "a",
    )  # fmt: skip


# ---- All --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "argv"),
    [
        (
            "sample: MODEL comes first: seqgan-hf sample MODEL [flags]. It is a Hub id or a path.",
            ("sample", "-n", "2"),
        ),
        ("evaluate: MODEL comes first: seqgan-hf evaluate MODEL [flags]. It is a Hub id or a path.", ("evaluate",)),
        (
            "sample: Unknown argument `--temprature`. Did you mean `--temperature`? See --help for all.",
            ("sample", "m", "--temprature", "2"),
        ),
        ("sample: A temperature must be above 0; got 0.0.", ("sample", "m", "--temperature", "0")),
        ("sample: `num_samples` must be at least 1; got 0.", ("sample", "m", "-n", "0")),
        (
            "evaluate: A temperature must be above 0; got -1.0.",
            ("evaluate", "m", "--dataset_name", "x", "--temperatures", "1", "-1"),
        ),
        (
            "evaluate: `max_samples` must be at least 1; got 0.",
            ("evaluate", "m", "--dataset_name", "x", "--max_samples", "0"),
        ),
        (
            "evaluate: `max_completion_length` must be at least 1; got 0.",
            ("evaluate", "m", "--dataset_name", "x", "--max_completion_length", "0"),
        ),
        (
            "sample: There is no configuration file run.yaml. Pass the path of a YAML file, or flags alone.",
            ("sample", "m", "run.yaml"),
        ),
    ],
)
def test_a_mistake_is_one_sentence(message, argv, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(f"seqgan-hf {message}", *argv)


def test_a_missing_model_and_a_missing_package_are_one_sentence(refused, pair, tmp_path, monkeypatch, unreachable_hub):
    nowhere = tmp_path / "nowhere"
    with pytest.raises(SystemExit) as stop:
        main(["sample", str(nowhere)])
    assert stop.value.code == 1
    save_state(tmp_path / "run", [entry(1)])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    refused(
        "seqgan-hf plot: Pictures need the package matplotlib: pip install 'seqgan_hf[plots]'.",
        "plot", tmp_path / "run",
    )  # fmt: skip


def test_a_diverged_generator_is_one_sentence(refused, pair, generator):
    with torch.no_grad():
        generator.lm_head.bias.fill_(float("nan"))
    generator.save_pretrained(pair)
    refused(
        "seqgan-hf sample: The generator's logits are not finite: it diverged. Go back to the last checkpoint and lower "
        "`learning_rate`.",
        "sample", pair, "--no_scores",
    )  # fmt: skip


@pytest.mark.parametrize("command", ["", "config", "plot", "sample", "evaluate", "judge", "turing"])
def test_every_command_helps(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    model = " MODEL" if command in ("sample", "evaluate") else ""
    assert printed.startswith(f"usage: seqgan-hf {command}{model}" if command else "usage: seqgan-hf COMMAND ...\n")
    if not command:
        assert all(
            f"  seqgan-hf {name} " in printed for name in ("config", "plot", "sample", "evaluate", "judge", "turing")
        )


def test_an_unknown_command_is_refused_with_the_usage(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train"])
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("usage: seqgan-hf COMMAND ...\n") and "invalid choice: 'train'" in printed


@pytest.mark.parametrize("arguments", [SampleArguments, EvaluateArguments])
def test_every_argument_has_help(arguments):
    for field in dataclasses.fields(arguments):
        assert field.metadata["help"].endswith("."), field.name


@pytest.mark.filterwarnings("ignore:'seqgan_hf.cli' found in sys.modules")
def test_the_module_runs_as_a_script(run, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["seqgan-hf", "config", "num_rollouts"])
    runpy.run_module("seqgan_hf.cli", run_name="__main__")
    assert capsys.readouterr().out == run("config", "num_rollouts") != ""


def test_an_adapter_is_merged_into_a_whole_model(tiny_model, tokenizer, tmp_path, capsys):
    peft = pytest.importorskip("peft")
    base = tiny_model("llama")
    base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    base.save_pretrained(tmp_path / "base")
    torch.manual_seed(4)
    lora = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear", init_lora_weights=False)
    adapted = load_generator(str(tmp_path / "base"), lora).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    main(["merge", str(tmp_path / "adapter"), str(tmp_path / "whole")])
    assert f"Merged: {tmp_path / 'whole'}" in capsys.readouterr().out
    ids = torch.tensor([[1, 5, 6]])
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole").eval()
    with torch.no_grad():
        torch.testing.assert_close(whole(ids).logits, adapted(ids).logits)
    assert not (tmp_path / "whole" / "adapter_config.json").exists()
    with pytest.raises(SystemExit):
        main(["merge", str(tmp_path / "base"), str(tmp_path / "again")])
    sentence = f"seqgan-hf merge: `{tmp_path / 'base'}` has no adapter to merge: it is a whole model already."
    assert sentence in capsys.readouterr().err
