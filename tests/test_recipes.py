"""The recipes and the README's code, run as a user runs them, only smaller."""

import dataclasses
import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import SENTENCES, write_checkpoint
from datasets import Dataset, DatasetDict
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

from seqgan_hf import SeqGANConfig
from seqgan_hf.arguments import SyntheticRecipeArguments, TextRecipeArguments
from seqgan_hf.flags import parse_config
from seqgan_hf.music import midi_to_melody, save_melodies
from seqgan_hf.oracle import make_oracle, oracle_digest
from seqgan_hf.real_text import config_of_control, usable_texts
from seqgan_hf.recipe import (
    announce_game,
    begin,
    in_a_row,
    kept_curve,
    likelihood_seconds,
    seeds_table,
    settings_of,
    which_checkpoint,
    write_config,
)
from seqgan_hf.text_measures import Task

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
    of_samples = {"bleu2", "bleu3", "bleu4", "self_bleu3", "distinct2", "distinct_texts", "novelty3", "copied"}
    for stage in ("MLE", "MLE, best temperature", "SeqGAN"):
        assert set(metrics["stages"][stage]) == {"temperature", "nll", "nll_best", *of_samples}
        assert f"{metrics['stages'][stage]['nll']:.4f}" in printed
    assert set(metrics["stages"]["real texts"]) == of_samples
    assert len(metrics["samples"]) == 10 and metrics["samples"][0].split()[0] in printed
    training = (ROOT / "recipes" / "data" / "sample_speech.txt").read_text(encoding="utf-8").splitlines()
    nearest = json.loads((tmp_path / "run" / "nearest.json").read_text())
    assert [pair["sample"] for pair in nearest] == metrics["samples"]
    assert all(any(text.startswith(pair["nearest"]) for text in training) for pair in nearest)
    assert {pair["nearest"] for pair in nearest} & set(
        training
    ) and f"nearest in training: {nearest[0]['nearest']}" in printed
    assert 0 <= metrics["discriminator"]["auc"] <= 1 and metrics["cpu_seconds"]["game"] > 0
    assert f"Saved: generator in {tmp_path / 'run'}" in printed
    generator = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "mle")
    assert not torch.equal(generator.lm_head.weight, saved.lm_head.weight)
    assert (tmp_path / "run" / "discriminator" / "config.json").is_file()
    assert (tmp_path / "run" / "curves.png").is_file() and (tmp_path / "run" / "quality_diversity.png").is_file()


def test_the_rival_of_equal_quality_and_the_lowest_nll_are_measured_and_not_guessed(quick, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("seqgan_hf.bench.temperature_where", lambda *where: asked.append(where) or 0.8)
    read = []

    def nll(model, rows, pad_token_id, temperatures, batch_size):
        """The lowest NLL is at 1.25, and lower yet where no generator is looked for."""
        read.append(temperatures)
        return [abs(temperature - 1.25) if temperature < 1.5 else -1.0 for temperature in temperatures]

    monkeypatch.setattr("seqgan_hf.bench.nll_at_temperatures", nll)
    recipe("image_coco")(["--sample", *quick, "--temperatures", "0.8", "1.6"])
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    mle, after = metrics["curves"]["MLE"], metrics["stages"]["SeqGAN"]
    assert asked == [(mle, "bleu4", after["bleu4"])]
    measured = {name: value for name, value in mle[2].items() if name != "samples"}
    assert metrics["stages"]["MLE, matched temperature"] == pytest.approx(measured)
    assert [point["nll"] for point in mle] == pytest.approx([-1.0, 0.25, 0.45])
    assert all(row["nll_best"] == 0 for name, row in metrics["stages"].items() if name != "real texts")
    assert all(temperatures == [*dict.fromkeys(temperatures)] for temperatures in read)
    assert read[0][:3] == [1.6, 1.0, 0.8] and read[-1][0] == 0.8 and {0.8, 1.15, 1.4} <= set(read[-1])


def test_samples_are_shown_at_the_temperature_asked_for(quick, tmp_path, capsys):
    run = recipe("image_coco")
    flags = ["--sample", *quick, "--temperatures", "0.8", "--sample_temperature"]
    run([*flags, "0.5"])
    path = tmp_path / "run" / "metrics.json"
    metrics = json.loads(path.read_text())
    curve = metrics["curves"]["SeqGAN"]
    assert [point["temperature"] for point in curve] == [1.0, 0.8, 0.5]
    assert metrics["samples"] == curve[2]["samples"] != curve[0]["samples"]
    nearest = json.loads((tmp_path / "run" / "nearest.json").read_text())
    assert [pair["sample"] for pair in nearest] == metrics["samples"]
    cold = {name: value for name, value in curve[2].items() if name != "samples"}
    assert metrics["stages"]["SeqGAN, temperature 0.5"] == cold
    printed = capsys.readouterr().out
    assert f"Samples, at a temperature of 0.5:\n  - {metrics['samples'][0]}" in printed

    run([*flags, "1", "--resume_from_checkpoint", "true"])
    printed = capsys.readouterr().out
    assert "Stage 1" not in printed and f"Samples:\n  - {curve[0]['samples'][0]}" in printed
    assert not any("temperature 0" in row for row in json.loads(path.read_text())["stages"])
    with pytest.raises(ValueError, match=re.escape("A temperature must be above 0; got 0.0.")):
        run([*flags, "0"])


def test_controls_are_games_of_their_own_and_change_nothing_of_the_game(quick, tmp_path, capsys):
    run = recipe("image_coco")
    run(["--sample", *quick, "--temperatures", "0.8"])
    alone = json.loads((tmp_path / "run" / "metrics.json").read_text())
    flags = ["--temperatures", "0.8", "--controls", "shuffled"]
    run(["--sample", *quick, *flags])
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["stages"]["SeqGAN"] == alone["stages"]["SeqGAN"]
    games = ["SeqGAN", "SeqGAN, reward shuffled"]
    table = [stage for stage in metrics["stages"] if "matched" not in stage]
    assert table == ["MLE", "MLE, best temperature", *games, "real texts"]
    assert len({metrics["stages"][game]["nll"] for game in games}) == 2
    assert [point["temperature"] for point in metrics["curves"]["SeqGAN, reward shuffled"]] == [1.0, 0.8]
    assert metrics["texts"] == alone["texts"]

    capsys.readouterr()
    run(["--sample", *quick, *flags, "--resume_from_checkpoint", "true"])
    assert "is finished." in capsys.readouterr().out
    (tmp_path / "run" / "metrics.json").unlink()
    run(["--sample", *quick, *flags, "--resume_from_checkpoint", "true"])
    printed = capsys.readouterr().out
    assert "Stage 1" not in printed and "Control" not in printed, "what was measured is not played again"
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["stages"] == metrics["stages"]
    run(["--sample", *quick, *flags])
    assert capsys.readouterr().out.count("Control:") == 1, "a new run plays anew"


def test_poems_are_twenty_characters_without_anything_else(quick, tmp_path, capsys):
    lines = (ROOT / "recipes" / "data" / "sample_quatrains.txt").read_text(encoding="utf-8").split()[:80]
    poems = [f"{line[:5]}\N{FULLWIDTH COMMA}{line[5:10]}\N{IDEOGRAPHIC FULL STOP} {line[10:]}" for line in lines]
    (tmp_path / "poems.txt").write_text("\n".join([*poems, *["床前明月光"] * 3]), encoding="utf-8")
    flags = ["--sample", "--dataset_name", str(tmp_path / "poems.txt"), "--temperatures", "0.5"]
    recipe("chinese_poems")([*flags, *quick])
    assert re.search(r"of \d+ texts are taken; [1-3] have another form, 0 stand in an", capsys.readouterr().out)
    pairs = json.loads((tmp_path / "run" / "nearest.json").read_text())
    assert {pair["nearest"] for pair in pairs} <= set(lines)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    assert tokenizer.eos_token is None and len(tokenizer(lines[0])["input_ids"]) == 20
    assert all(len(pair["sample"]) <= 20 for pair in pairs)
    with pytest.raises(ValueError, match=r"The split `train` of .* has 0 texts of exactly 21 tokens, and at least 2"):
        recipe("chinese_poems")([*flags, *quick, "--max_completion_length", "21"])


def test_melodies_are_read_from_midi_and_written_as_midi(quick, tmp_path, capsys):
    mido = pytest.importorskip("mido")
    lines = (ROOT / "recipes" / "data" / "sample_melodies.txt").read_text(encoding="utf-8").splitlines()
    save_melodies([" ".join(lines[index : index + 2]) for index in range(0, 200, 2)], tmp_path / "tunes" / "melody")
    save_melodies(["44 " * 40], tmp_path / "tunes" / "chords")
    flags = ["--sample", "--dataset_name", str(tmp_path / "tunes"), "--temperatures", "1"]
    recipe("nottingham_music")([*flags, *quick])
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    pairs = json.loads((tmp_path / "run" / "nearest.json").read_text())
    assert {pair["nearest"] for pair in pairs} <= set(lines[:200])
    assert 0 <= metrics["stages"]["SeqGAN"]["melodies"] <= 1 and metrics["stages"]["real texts"]["mse_nearest"] > 0
    assert re.search(r"\d of 10 texts \(SeqGAN\) are melodies", capsys.readouterr().out)
    files = sorted((tmp_path / "run" / "melodies" / "real").glob("*.mid"))
    assert all(mido.MidiFile(file).length == pytest.approx(32 * 0.4) for file in files)
    assert " ".join(map(str, midi_to_melody(files[0]))) in lines
    assert (tmp_path / "run" / "melodies" / "piano_rolls.png").stat().st_size > 10_000


def test_seeds_of_a_text_recipe_are_summed_up(quick, tmp_path, capsys):
    recipe("image_coco")(["--sample", *quick, "--temperatures", "1", "--seeds", "2", "--seed", "3"])
    printed = capsys.readouterr().out
    assert "2 seeds, mean and standard deviation:" in printed and "+- bleu4" in printed
    reports = [json.loads((tmp_path / "run" / f"seed_{seed}" / "metrics.json").read_text()) for seed in (3, 4)]
    mean = sum(report["stages"]["SeqGAN"]["nll"] for report in reports) / 2
    assert f"{mean:.4f}" in printed and reports[0]["texts"] == reports[1]["texts"]
    assert reports[0]["stages"]["MLE"] != reports[1]["stages"]["MLE"]


def test_a_resumed_recipe_takes_its_first_stage_from_disk(quick, tmp_path, capsys):
    run = recipe("obama_speech")
    flags = ["--sample", *quick, "--save_strategy", "steps", "--save_steps", "1"]
    run(flags)
    shutil.rmtree(tmp_path / "run" / "checkpoint-2")
    metrics = tmp_path / "run" / "metrics.json"
    first = json.loads(metrics.read_text())
    metrics.unlink()
    capsys.readouterr()
    run([*flags, "--resume_from_checkpoint", "true"])
    printed = capsys.readouterr().out
    assert "Stage 1" not in printed and "is finished" not in printed
    assert json.loads(metrics.read_text())["stages"] == first["stages"]
    with pytest.raises(
        ValueError, match=r"holds checkpoint-2 of an earlier run\. Pass `--resume_from_checkpoint true`"
    ):
        run(flags)
    message = f"{tmp_path / 'run'} is finished, with other settings: max_steps 2, now 3. Give another `--output_dir`"
    with pytest.raises(ValueError, match=re.escape(message)):
        run([*flags, "--max_steps", "3", "--resume_from_checkpoint", "true"])


def test_a_new_run_takes_nothing_of_an_earlier_one_in_its_folder(tmp_path):
    for name in ("metrics.json", "mle/metrics.json", "mle_1/metrics.json", "control_random/curve.json", "other.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    args = TextRecipeArguments(dataset_name="x")
    assert begin(args, SeqGANConfig(output_dir=str(tmp_path))) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "other.txt"]


def test_a_finished_run_goes_on_where_there_is_more_to_measure(tmp_path):
    config = SeqGANConfig(output_dir=str(tmp_path), resume_from_checkpoint="true")
    args = TextRecipeArguments(dataset_name="x", temperatures=[0.9])
    report = {"stages": {"MLE": {}, "SeqGAN": {}}, "settings": settings_of(args, config)}
    (tmp_path / "metrics.json").write_text(json.dumps(report))
    assert begin(args, config) is None, "killed before the pair was saved"
    (tmp_path / "discriminator").mkdir()
    assert begin(args, config) == report
    assert begin(TextRecipeArguments(dataset_name="x", temperatures=[0.9], controls=["random"]), config) is None


def test_a_control_resumes_its_own_checkpoints(tmp_path):
    for asked, expected in ((None, None), ("false", "false"), ("run/checkpoint-40", "true"), ("true", "true")):
        config = SeqGANConfig(output_dir=str(tmp_path), resume_from_checkpoint=asked)
        control = config_of_control(config, "shuffled")
        assert (control.resume_from_checkpoint, control.reward_control) == (expected, "shuffled")
        assert Path(control.output_dir) == tmp_path / "control_shuffled" and config.reward_control == "none"


def test_a_text_that_stands_in_an_earlier_split_is_left_out(capsys):
    splits = {"train": ["a b", "c"], "validation": ["d", "c", "e"], "test": ["a b", "f", "e", "g", "g"]}
    splits = DatasetDict({name: Dataset.from_dict({"text": texts}) for name, texts in splits.items()})
    args = TextRecipeArguments(dataset_name="x")
    usable = usable_texts(splits, args, SeqGANConfig(), Task(order=2, clean=str.upper))
    assert {name: texts["text"] for name, texts in usable.items()} == {
        "train": ["A B", "C"], "validation": ["D", "E"], "test": ["F", "G", "G"]
    }  # fmt: skip
    printed = capsys.readouterr().out
    assert "test: 3 of 5 texts are taken; 0 have another form, 2 stand in an earlier split." in printed
    splits["validation"] = splits["validation"].select([0, 1])
    message = (
        "The split `validation` of `x` has 1 texts that can be used, and at least 2 are needed; the first is 'd'."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        usable_texts(splits, args, SeqGANConfig(), Task(order=2))
    prompts = DatasetDict(train=Dataset.from_dict({"prompt": ["a"], "completion": ["b"]}))
    assert usable_texts(prompts, args, SeqGANConfig(), Task(order=2)) is prompts


def test_the_synthetic_recipe_reports_both_likelihoods(quick, tmp_path, capsys):
    small = ["--num_texts", "200", "--num_validation_texts", "20", "--temperatures", "1"]
    recipe("synthetic_oracle")(["--preset", "smoke", *quick, *small, "--mle_epochs", "12"])
    stages = json.loads((tmp_path / "run" / "metrics.json").read_text())["stages"]
    assert list(stages) == ["MLE", "MLE, temperature 0.75", "SeqGAN"]
    assert all(5 < stage[name] < 12 for stage in stages.values() for name in ("NLL_oracle", "NLL_test"))
    assert stages["MLE, temperature 0.75"]["NLL_oracle"] < stages["MLE"]["NLL_oracle"]
    assert "NLL_oracle" in capsys.readouterr().out


TINY = [
    "--preset", "smoke", "--num_texts", "24", "--num_validation_texts", "4", "--max_completion_length", "5",
    "--rival_temperature", "0.5", "--temperatures", "0.8", "--discriminator_data", "held_out", "--save_strategy", "steps",
    "--save_steps", "1",
]  # fmt: skip


def test_seeds_in_a_row_are_kept_apart_and_an_interrupted_one_goes_on(quick, tmp_path, capsys):
    play, row = recipe("synthetic_oracle"), [*TINY, *quick, "--num_test_samples", "8", "--seeds", "2", "--seed", "7"]
    play(row)
    printed = capsys.readouterr().out
    finished, interrupted = (tmp_path / "run" / f"seed_{seed}" for seed in (7, 8))
    assert "Seed 8, 2 of 2." in printed and "2 seeds, mean and standard deviation:" in printed
    first = [json.loads((folder / "metrics.json").read_text()) for folder in (finished, interrupted)]
    assert first[0]["stages"] != first[1]["stages"]
    for folder, metrics in zip((finished, interrupted), first, strict=True):
        assert f"seed: {folder.name[-1]}\n" in (folder / "config.yaml").read_text()
        assert (folder / "quality_diversity.png").is_file() and (folder / "model.safetensors").is_file()
        assert list(metrics["stages"]) == ["MLE", "MLE, temperature 0.5", "SeqGAN"]
        for stage, curve in metrics["curves"].items():
            assert [point["temperature"] for point in curve] == [1.0, 0.8, 0.5]
            table = {"NLL_oracle": curve[0]["NLL_oracle"], "NLL_test": curve[0]["NLL_test"]}
            assert metrics["stages"][stage] == table
        assert set(metrics["discriminator"]) == {"accuracy_real", "accuracy_generated", "accuracy", "auc"}
        assert metrics["cpu_seconds"]["mle"] > 0 and metrics["cpu_seconds"]["game"] > 0
        assert metrics["cpu_seconds"]["language_models"] == 0
        assert (metrics["settings"]["num_texts"], metrics["settings"]["max_steps"]) == (24, 2)

    (interrupted / "metrics.json").unlink()
    shutil.rmtree(interrupted / "checkpoint-2")
    changed = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    play([*row, "--resume_from_checkpoint", "true"])
    printed = capsys.readouterr().out
    assert f"{finished} is finished." in printed and f"{interrupted} is finished." not in printed
    assert "Stage 1" not in printed and "no complete checkpoint" not in printed
    assert first[1]["oracle"] == first[0]["oracle"] == oracle_digest(make_oracle(88))
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == changed
    again = json.loads((interrupted / "metrics.json").read_text())
    before = torch.load(interrupted / "checkpoint-1" / "seqgan_state.pt", weights_only=True)["cpu_seconds"]
    assert again["cpu_seconds"]["game"] > before > 0
    for part in ("stages", "curves", "discriminator"):
        assert again[part] == first[1][part], part


def test_a_kept_curve_is_measured_again_for_another_question_alone(tmp_path):
    path, answers = tmp_path / "curve.json", iter(([{"temperature": 1.0}], [{"temperature": 0.5}]))

    def curve(samples):
        return kept_curve(path, {"num_samples": samples}, lambda: next(answers))

    assert curve(8) == curve(8) == [{"temperature": 1.0}]
    assert curve(9) == curve(9) == [{"temperature": 0.5}]


def test_a_likelihood_ratio_plays_without_rollouts_and_its_pair_loads(quick, tmp_path, capsys):
    flags = [
        "--discriminator", "likelihood_ratio", "--num_rollouts", "0", "--baseline", "difference", "--reward", "logit",
        "--rollout_stride", "1", "--language_models", "1", "--language_model_size", "8", "--ratio_hidden_size", "4",
    ]  # fmt: skip
    recipe("synthetic_oracle")([*TINY, *quick, *flags])
    assert "Language model 1 of 1" in capsys.readouterr().out
    generator = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    first_stage = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "mle")
    judge = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "discriminator")
    reader, own = judge.language_models
    assert not torch.equal(generator.lm_head.weight, first_stage.lm_head.weight)
    assert torch.equal(reader.lm_head.weight, first_stage.lm_head.weight)
    assert own.config.hidden_size == 8 and own.config.dropout == 0.2
    assert (judge.config.hidden_size, judge.config.generator_hidden_size) == (4, 32)
    assert judge.correction.abs().min() > 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert 0 <= metrics["discriminator"]["auc"] <= 1 and metrics["cpu_seconds"]["language_models"] > 0


def test_a_run_without_a_game_ends_after_its_first_stage(quick, tmp_path, capsys):
    recipe("synthetic_oracle")([*TINY, *quick, "--game", "false"])
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert list(metrics["stages"]) == ["MLE", "MLE, temperature 0.5"] and list(metrics["curves"]) == ["MLE"]
    assert "discriminator" not in metrics and not (tmp_path / "run" / "discriminator").exists()
    printed = capsys.readouterr().out
    assert f"{metrics['stages']['MLE']['NLL_oracle']:.4f}" in printed and "Stage 2" not in printed


def test_a_run_without_a_game_can_be_resumed_for_its_game(quick, tmp_path):
    recipe("synthetic_oracle")([*TINY, *quick, "--game", "false"])
    recipe("synthetic_oracle")([*TINY, *quick, "--resume_from_checkpoint", "true"])
    assert "SeqGAN" in json.loads((tmp_path / "run" / "metrics.json").read_text())["stages"]


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
    (folder / "texts.txt").write_text("\n".join(f"{text} {number}" for text in SENTENCES for number in range(6)))
    names = {"dataset_name": "texts.txt", "model_name_or_path": "llama", "discriminator_name_or_path": "bert"}
    return [part for name, value in names.items() for part in (f"--{name}", str(folder / value))]


@pytest.mark.parametrize(
    "precision", [["--bf16", "--use_cpu"], ["--load_in_4bit", "--bf16", "false"]], ids=["bf16", "4bit"]
)
def test_a_recipe_trains_adapters_through_both_stages(precision, quick, tokenizer, tmp_path, capsys):
    if "--load_in_4bit" in precision:
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
    recipe("obama_speech")([*saved_networks(tmp_path, tokenizer), *flags, *precision, *quick])
    weights = {path.name for path in (tmp_path / "run").glob("*.safetensors")}
    assert weights == {"adapter_model.safetensors"}
    assert (tmp_path / "run" / "discriminator" / "adapter_model.safetensors").is_file()
    trained, first = (load_file(tmp_path / "run" / place / "adapter_model.safetensors") for place in ("", "mle"))
    assert any(not torch.equal(trained[name], first[name]) for name in first)
    stages = json.loads((tmp_path / "run" / "metrics.json").read_text())["stages"]
    assert {"MLE", "MLE, best temperature", "SeqGAN", "real texts"} <= set(stages)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"from_scratch": True, "use_peft": True},
            "`from_scratch` makes new networks, and an adapter needs one that was trained. Leave out `use_peft`",
        ),
        (
            {"from_scratch": True, "fixed_length": True},
            "`fixed_length` counts words or characters: set `tokenizer` to `word` or `character`; got `bpe`.",
        ),
        ({"fixed_length": True}, "`fixed_length` makes a tokenizer without an end of text: add `--from_scratch`, or"),
        (
            {"discriminator": "likelihood_ratio"},
            "`discriminator: likelihood_ratio` reads the tokens of language models",
        ),
        ({"controls": ["none"]}, "`controls` must be among constant, shuffled, random; got 'none'."),
        ({"temperatures": [0.5, 0.0]}, "A temperature must be above 0; got 0.0."),
        ({"num_test_samples": 1}, "`num_test_samples` must be at least 2; got 1."),
        (
            {"load_in_4bit": True},
            "`load_in_4bit` freezes the generator, so there must be an adapter: add `--use_peft`.",
        ),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(flags, message):
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


# ---- Seeds in a row ------------------------------------------------------------------------------------------------


def test_one_seed_keeps_its_folder(tmp_path, capsys):
    (one,) = in_a_row(SeqGANConfig(output_dir=str(tmp_path), seed=7), 1)
    assert (one.output_dir, one.seed) == (str(tmp_path), 7)
    assert "Seed" not in capsys.readouterr().out


def test_several_seeds_have_folders_of_their_own_and_random_numbers_too(tmp_path, capsys):
    config = SeqGANConfig(output_dir=str(tmp_path), seed=7, num_rollouts=3)
    torch.manual_seed(123)
    drawn = {one.seed: (one.output_dir, one.num_rollouts, torch.rand(1)) for one in in_a_row(config, 2)}
    assert list(drawn) == [7, 8] and (config.seed, config.output_dir) == (7, str(tmp_path))
    assert [folder for folder, _, _ in drawn.values()] == [str(tmp_path / f"seed_{seed}") for seed in (7, 8)]
    assert [rollouts for _, rollouts, _ in drawn.values()] == [3, 3]
    for seed, (_, _, number) in drawn.items():
        assert torch.equal(number, torch.rand(1, generator=torch.Generator().manual_seed(seed)))
    assert "Seed 8, 2 of 2." in capsys.readouterr().out


def test_several_seeds_share_neither_repository_nor_checkpoint(tmp_path):
    config = SeqGANConfig(output_dir=str(tmp_path), resume_from_checkpoint="run/checkpoint-3")
    assert len(list(in_a_row(config, 1))) == 1
    message = (
        "`resume_from_checkpoint` must be `true` where there are several seeds, each with checkpoints of its own; got "
        "run/checkpoint-3."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        list(in_a_row(config, 2))
    message = "`push_to_hub` takes one run to one repository; leave it out, or set `seeds` to 1."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):  # and before any repository is created
        recipe("synthetic_oracle")(["--output_dir", str(tmp_path), "--seeds", "2", "--push_to_hub"])


def test_any_spelling_of_true_resumes_several_seeds(tmp_path):
    for asked in ("True", "true", True, None):
        assert len(list(in_a_row(SeqGANConfig(output_dir=str(tmp_path), resume_from_checkpoint=asked), 2))) == 2


CLASSES = (SyntheticRecipeArguments, SeqGANConfig)
SETTINGS = [
    "--output_dir", "run", "--temperatures", "0.9", "0.8", "--discriminator", "likelihood_ratio", "--num_rollouts", "0",
    "--reward", "logit", "--learning_rate", "2e-3", "--lr_scheduler_type", "linear", "--disable_dropout", "false",
    "--save_strategy", "no", "--model_init_kwargs", '{"revision": "v1"}', "--seed", "5", "--max_steps", "3",
]  # fmt: skip


def test_a_runs_settings_are_read_back_from_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = parse_config(CLASSES, [*SETTINGS, "--seeds", "3", "--resume_from_checkpoint", "true"])
    write_config(*first)
    again = parse_config(CLASSES, ["run/config.yaml"])
    for before, after in zip(first, again, strict=True):
        names = [option.name for option in dataclasses.fields(before) if option.init]
        differ = {name for name in names if getattr(before, name) != getattr(after, name)}
        assert differ <= {"seeds", "resume_from_checkpoint"}, differ
    assert again[0].seeds == 1 and again[1].resume_from_checkpoint is None


SECRETS = ["--hub_token", "hf_secret", "--model_init_kwargs", '{"token": "hf_secret", "revision": "v1"}']


def test_a_runs_settings_hold_neither_a_secret_nor_a_word_in_its_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_config(*parse_config(CLASSES, [*SETTINGS, *SECRETS]))
    written = (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8")
    assert "hf_secret" not in written and "num_rollouts: 0\n" in written
    _, config = parse_config(CLASSES, ["run/config.yaml"])
    assert config.hub_token is None and config.init_kwargs("model") == {"revision": "v1"}


def test_the_last_checkpoint_is_the_one_to_go_on_from(tmp_path, capsys):
    def asked(value, folder=tmp_path):
        return which_checkpoint(SeqGANConfig(output_dir=str(folder), resume_from_checkpoint=value))

    assert asked(None) is None and asked("false") is None and asked("run/checkpoint-3") == "run/checkpoint-3"
    assert capsys.readouterr().out == ""
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert asked("true", folder) is None
        said = capsys.readouterr().out
        assert said == f"{folder} holds no complete checkpoint: the game starts from its beginning.\n"
    for step in (9, 10):
        write_checkpoint(tmp_path / f"checkpoint-{step}")
    assert asked("true") == asked("True") == str(tmp_path / "checkpoint-10")


def test_the_table_of_seeds_by_hand():
    reports = [
        {"stages": {"MLE": {"NLL_oracle": 9.0, "NLL_test": 5.0}, "SeqGAN": {"NLL_oracle": 8.0, "NLL_test": nll}}}
        for nll in (5.0, 6.0, 7.0)
    ]
    assert (
        seeds_table(reports)
        == """\
        NLL_oracle  +- oracle  NLL_test   +- test
MLE         9.0000     0.0000    5.0000    0.0000
SeqGAN      8.0000     0.0000    6.0000    1.0000"""
    )


@pytest.mark.parametrize("order", [1, -1])
def test_the_table_of_seeds_keeps_rows_and_columns_that_all_runs_have(order):
    rows = [{"bleu2": 0.3, "nll_best": 4.0}, {"bleu2": 0.5}]  # of an earlier version
    reports = [{"stages": {"MLE": row}} for row in rows[::order]]
    reports[0]["stages"]["MLE, matched temperature"] = rows[0]
    assert seeds_table(reports).split() == ["bleu2", "+-", "bleu2", "MLE", "0.4000", "0.1414"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperatures": [0.9, 0.0]}, "A temperature must be above 0; got 0.0."),
        ({"rival_temperature": -0.5}, "A temperature must be above 0; got -0.5."),
        ({"discriminator": "bert"}, "`discriminator` must be cnn or likelihood_ratio; got 'bert'."),
        ({"seeds": 0}, "`seeds` must be at least 1; got 0."),
        ({"num_texts": 0}, "`num_texts` must be at least 1; got 0."),
        ({"num_test_samples": 0}, "`num_test_samples` must be at least 1; got 0."),
        ({"num_validation_texts": 0}, "`num_validation_texts` must be at least 1; got 0."),
        ({"language_model_size": 0}, "`language_model_size` must be at least 1; got 0."),
    ],
)
def test_arguments_of_the_synthetic_recipe_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SyntheticRecipeArguments(**settings)


def test_temperature_one_and_the_rivals_are_always_measured():
    assert SyntheticRecipeArguments(temperatures=[0.9, 1.1], rival_temperature=0.7).temperatures == [
        1.1,
        1.0,
        0.9,
        0.7,
    ]


def test_seconds_before_a_game_are_those_of_the_generator_and_of_all_language_models():
    seconds = likelihood_seconds({"cpu_seconds": 2.0}, [{"cpu_seconds": 3.0}, {"cpu_seconds": 4.0}])
    assert seconds == {"mle": 2.0, "language_models": 7.0}
    assert likelihood_seconds({}, []) == {"mle": None, "language_models": 0}
