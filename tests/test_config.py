import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from transformers import BitsAndBytesConfig

from seqgan_hf import SeqGANConfig
from seqgan_hf.arguments import SyntheticRecipeArguments, TextRecipeArguments
from seqgan_hf.flags import parse_config
from seqgan_hf.redaction import publishable

RECIPES = Path(__file__).parent.parent / "recipes"
CLASSES = (TextRecipeArguments, SeqGANConfig)


def write(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_flags_come_over_the_yaml_file(tmp_path):
    path = write(tmp_path, "dataset_name: here.txt\nlearning_rate: 1e-3\nmle_coef: 0.5\nfrom_scratch: true\n")
    args, config = parse_config(CLASSES, [path, "--mle_coef", "0.25", "--output_dir", str(tmp_path)])
    assert (args.dataset_name, args.from_scratch) == ("here.txt", True)
    assert (config.learning_rate, config.mle_coef) == (1e-3, 0.25)


def test_dictionaries_and_lists_of_a_yaml_file_arrive(tmp_path):
    text = "model_init_kwargs:\n  revision: v1\nreport_to: [none]\n"
    (config,) = parse_config((SeqGANConfig,), [write(tmp_path, text), "--output_dir", str(tmp_path)])
    assert config.init_kwargs("model") == {"revision": "v1"}
    assert config.report_to == []


@pytest.mark.parametrize("flags", [["--controls"], ["--controls", "--seed", "3"], ["--controls", "random"]])
def test_a_list_of_a_preset_can_be_emptied_or_replaced(flags, tmp_path):
    path = write(tmp_path, "dataset_name: x\ncontrols: [constant]\n")
    args, _ = parse_config(CLASSES, [path, *flags, "--output_dir", str(tmp_path)])
    assert args.controls == [name for name in flags if name == "random"]


def test_an_empty_list_of_a_yaml_file_is_empty(tmp_path):
    path = write(tmp_path, "controls: []\ndataset_name: x\n")
    assert parse_config(CLASSES, [path, "--output_dir", str(tmp_path)])[0].controls == []


def test_paths_beside_the_yaml_file_are_found_from_anywhere(tmp_path):
    args, _ = parse_config(CLASSES, [write(tmp_path, "dataset_name: ../speech.txt\n")])
    assert Path(args.dataset_name) == tmp_path.parent / "speech.txt"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "num_rollout: 4\n",
            "has an unknown key `num_rollout`. Did you mean `num_rollouts`? See --help for all keys.",
        ),
        ("- a\n- b\n", "must hold `field: value` lines; got a list."),
    ],
)
def test_a_wrong_yaml_file_is_refused(text, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_config(CLASSES, [write(tmp_path, text)])


def test_a_misspelt_flag_is_named_with_its_nearest():
    message = "Unknown argument `--num_rolouts`. Did you mean `--num_rollouts`? See --help for all."
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_config(CLASSES, ["--dataset_name", "x", "--num_rolouts", "4"])
    with pytest.raises(ValueError, match="`num_test_samples` must be at least 2; got 0"):
        parse_config(CLASSES, ["--dataset_name", "x", "--num_test_samples", "0"])


def test_a_missing_yaml_file_is_named():
    with pytest.raises(ValueError, match=re.escape("There is no configuration file nowhere.yaml.")):
        parse_config(CLASSES, ["nowhere.yaml"])


def test_presets_by_name_by_flag_and_by_default(tmp_path):
    for name, rate in (("smoke", "1e-1"), ("paper", "1e-2"), ("pretrained", "1e-3")):
        (tmp_path / f"{name}.yaml").write_text(f"dataset_name: x\nlearning_rate: {rate}\n")

    def rate(*argv):
        return parse_config(CLASSES, argv, presets=tmp_path, default_preset="pretrained")[1].learning_rate

    assert (rate(), rate("--sample"), rate("--preset=paper"), rate("--from_scratch")) == (1e-3, 1e-1, 1e-2, 1e-2)
    assert [rate("--from_scratch", "false"), rate("--sample=false"), rate("--from_scratch=true")] == [1e-3, 1e-3, 1e-2]
    message = "`--preset` must be one of paper, pretrained, smoke; got small."
    with pytest.raises(ValueError, match=re.escape(message)):
        rate("--preset", "small")
    with pytest.raises(ValueError, match="--sample and --from_scratch are two presets"):
        rate("--sample", "--from_scratch")
    with pytest.raises(ValueError, match="a preset were given: give one"):
        rate(write(tmp_path, "dataset_name: x\n"), "--sample")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("configs/*/*.yaml")), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_preset_parses(path, tmp_path):
    own = SyntheticRecipeArguments if path.parent.name == "synthetic_oracle" else TextRecipeArguments
    args, config = parse_config((own, SeqGANConfig), [str(path)])
    for key, value in yaml.safe_load(path.read_text()).items():
        got = getattr(args if hasattr(args, key) else config, key)
        if isinstance(value, str) and value.startswith("../"):
            assert Path(got).resolve() == (path.parent / value).resolve() and Path(got).exists(), key
        else:
            assert getattr(got, "value", got) == value, key


def test_recipes_are_short():
    for recipe in RECIPES.glob("*.py"):
        lines = [line for line in recipe.read_text(encoding="utf-8").splitlines() if line.strip()]
        assert len(lines) < 80, recipe.name


def test_no_secret_is_among_the_settings_that_are_written_down(tmp_path):
    kwargs = {"token": "hf_secret", "revision": "main", "deeper": {"api_key": "hf_secret"}}
    config = SeqGANConfig(output_dir=str(tmp_path), hub_token="hf_secret", model_init_kwargs=kwargs)
    assert "hf_secret" not in config.to_json_string()
    assert config.to_dict()["model_init_kwargs"] == {
        "token": "<TOKEN>", "revision": "main", "deeper": {"api_key": "<API_KEY>"},
    }  # fmt: skip
    assert config.init_kwargs("model")["token"] == "hf_secret"


@pytest.mark.parametrize("path", sorted((RECIPES / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_its_configurations(path):
    kinds = {
        "cpu": "NO",
        "single_gpu": "NO",
        "ddp": "MULTI_GPU",
        "fsdp2": "FSDP",
    }
    config = load_config_from_file(str(path))
    assert config.distributed_type == kinds[path.stem]
    assert (config.num_processes > 1) == (config.distributed_type != "NO")


def test_what_is_written_down_has_no_place_of_this_machine_and_no_credentials():
    written = publishable(
        {
            "output_dir": "/home/ann/secret project/run",
            "dataset_name": "https://ann:hunter2@host/speech.txt?sig=sekret",
            "data": ["../speeches", {"password": "hunter2"}],
            "quantization_config": BitsAndBytesConfig(load_in_4bit=True),
            "device": torch.device("cpu"),
            "none": None,
        }
    )
    assert json.loads(json.dumps(written)) == written
    assert written["quantization_config"]["load_in_4bit"] is True and written["none"] is None
    assert written["output_dir"] == "run" and written["dataset_name"] == "https://host/speech.txt"
    assert written["data"] == ["../speeches", {"password": "<PASSWORD>"}] and written["device"] == "cpu"


def test_a_configuration_file_behind_flags_is_sent_to_its_place(tmp_path):
    message = "The configuration file run.yaml comes first, before all flags."
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_config(CLASSES, ["--dataset_name", "x", "--output_dir", str(tmp_path), "run.yaml"])


@pytest.mark.parametrize(("given", "kept"), [("auto", "auto"), (64, 64), ("64", 64)])
def test_the_number_of_rows_is_a_number_or_left_to_the_memory(given, kept, tmp_path):
    assert SeqGANConfig(output_dir=str(tmp_path), rollout_batch_size=given).rollout_batch_size == kept
    (flags,) = parse_config((SeqGANConfig,), ["--output_dir", str(tmp_path), "--rollout_batch_size", str(given)])
    path = write(tmp_path, f"output_dir: {tmp_path}\nrollout_batch_size: {given}\n")
    (file,) = parse_config((SeqGANConfig,), [path])
    assert flags.rollout_batch_size == file.rollout_batch_size == kept
    assert json.loads(file.to_json_string())["rollout_batch_size"] == kept


@pytest.mark.parametrize("wrong", [0, -1, "all", 1.5, True, None])
def test_a_number_of_rows_that_is_neither_is_refused(wrong, tmp_path):
    message = f"`rollout_batch_size` must be a whole number of at least 1, or `auto`; got {wrong!r}."
    with pytest.raises(ValueError, match=re.escape(message)):
        SeqGANConfig(output_dir=str(tmp_path), rollout_batch_size=wrong)


def test_settings_that_are_shares_or_whole_numbers_pass(tmp_path):
    shares = SeqGANConfig(
        output_dir=str(tmp_path), logging_steps=0.1, save_steps=5.0, warmup_steps=0.5, learning_rate=0
    )
    assert (shares.logging_steps, shares.warmup_steps) == (0.1, 0.5)
    assert SeqGANConfig(output_dir=str(tmp_path), max_grad_norm=0, num_rollouts=np.int64(3)).num_rollouts == 3
    with pytest.raises(ValueError, match="`discriminator_accuracy_gate` must be a finite number; got 'x'"):
        SeqGANConfig(output_dir=str(tmp_path), discriminator_accuracy_gate="x")
