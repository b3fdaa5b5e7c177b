"""The rules of the house: imports go down the floors, every field is described, public names are documented."""

import ast
import dataclasses
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest
from transformers import TrainingArguments

import seqgan_hf
from seqgan_hf import SeqGANConfig
from seqgan_hf.arguments import SyntheticRecipeArguments, TextRecipeArguments

PACKAGE = Path(seqgan_hf.__file__).parent
FLOORS = [
    {
        "adapters",
        "masking",
        "redaction",
        "states",
        "blockwise",
        "caches",
        "models",
        "metrics",
        "processes",
        "randomness",
        "stages",
    }
    | {"trial", "votes", "request_guard"},
    {"arguments", "chunks", "completions", "config", "heads", "hub", "interruption", "metering", "music", "sampling"}
    | {"fitting", "judge_server"},
    {"checkpoints", "data", "discriminator", "generation", "launch", "loading", "losses", "memory", "tokenization"}
    | {"tones"},
    {"rollout", "oracle", "streams", "corpora", "flags", "samples", "shards"},
    {"rewards", "networks"},
    {"callbacks", "progress", "evaluation", "plots", "pretraining", "model_card"},
    {"melodies", "pair", "text_measures", "verdicts", "space_export"},
    {"published", "trial_making", "turing"},
    {"trainer"},
    {"recipe", "bench"},
    {"synthetic", "real_text", "report"},
    {"remarks"},
    {"report_page"},
    {"cli"},
]
# Both stages report held-out NLL alike.
SAME_FLOOR = {("pretraining", "evaluation")}


def floor_of(module: str) -> int:
    (floor,) = [index for index, modules in enumerate(FLOORS) if module in modules]
    return floor


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and path.parent == PACKAGE:
            found |= {node.module.split(".")[0]} if node.module else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("seqgan_hf."):
            found.add(node.module.split(".")[1])
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("[!_]*.py")), ids=lambda path: path.stem)
def test_imports_go_down(path):
    for imported in imports_of(path):
        down = floor_of(imported) < floor_of(path.stem)
        assert down or (path.stem, imported) in SAME_FLOOR, f"{path.stem} imports {imported}"


@pytest.mark.parametrize("room", ["models", "metrics"])
def test_models_and_metrics_work_without_the_rest(room):
    for path in (PACKAGE / room).rglob("*.py"):
        assert imports_of(path) <= {room, "states"}, path


def test_only_the_room_that_both_stages_share_knows_the_trainer():
    for path in PACKAGE.rglob("*.py"):
        names = {
            alias.name
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom) and node.module == "transformers"
            for alias in node.names
        }
        assert "Trainer" not in names or path.stem == "shards", path


@pytest.mark.parametrize("config", [SeqGANConfig, TextRecipeArguments, SyntheticRecipeArguments])
def test_every_config_field_has_help(config):
    inherited = {field.name for field in dataclasses.fields(TrainingArguments)}
    for field in dataclasses.fields(config):
        if config is not SeqGANConfig or field.name not in inherited:
            assert field.metadata.get("help", "").strip().endswith((".", ")")), field.name


def public_functions():
    for info in pkgutil.walk_packages([str(PACKAGE)], "seqgan_hf."):
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__:
                if inspect.isfunction(value) or inspect.isclass(value):
                    yield pytest.param(value, id=f"{module.__name__}.{name}")


@pytest.mark.parametrize("value", list(public_functions()))
def test_public_names_are_documented(value):
    assert (value.__doc__ or "").strip()
