"""How a run is told its settings: by flags, or by a YAML file with flags on top."""

import dataclasses
import difflib
import json
import sys
import textwrap
from argparse import ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

import yaml
from transformers import HfArgumentParser

from .config import SeqGANConfig


class _HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """Shows defaults, and leaves a description its lines."""


class _Parser(HfArgumentParser):
    """Ends in a sentence, and not in the usage of some 200 flags."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}. See --help for all.\n")


def parse_config(
    config_classes: Sequence[type],
    argv: Sequence[str] | None = None,
    description: str | None = None,
    presets: str | Path | None = None,
    default_preset: str | None = None,
    prog: str | None = None,
) -> tuple[Any, ...]:
    """
    Read dataclasses from the command line: flags, or a YAML file first and flags over it.

    Args:
        config_classes (`Sequence[type]`): The dataclasses to fill, such as `(TextRecipeArguments, SeqGANConfig)`.
        argv (`Sequence[str]`, *optional*): The arguments; `sys.argv[1:]` by default. If the first ends in `.yaml` or
            `.yml` it is a file of `field: value` lines, and no preset is read.
        description (`str`, *optional*): Shown by `--help`.
        presets (`str` or `Path`, *optional*): A folder of such files. `--preset NAME` reads `NAME.yaml` from it first,
            and so does a flag that a class has in its `PRESETS`, such as `--sample`.
        default_preset (`str`, *optional*): The preset where none is named.
        prog (`str`, *optional*): The command in `--help`; that of the process by default.

    Returns:
        `tuple`: one instance of each class, in order.

    Raises:
        ValueError: If the YAML file or the preset does not exist, is no mapping, or has a key that no class has; the
            nearest valid key is named.
        SystemExit: With code 2 and a sentence on stderr, if a value cannot be read as what its field is.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    path: Path | None = None
    if argv and argv[0].endswith((".yaml", ".yml")):
        path = Path(argv.pop(0))
        if presets is not None and _choose_preset(Path(presets), argv, None, config_classes)[0] is not None:
            raise ValueError(f"{path} and a preset were given: give one, and set what differs by flags.")
    elif presets is not None:
        path, argv = _choose_preset(Path(presets), argv, default_preset, config_classes)
    if path is not None:
        argv = _flags_from_yaml(path, config_classes) + argv
    classes: list[Any] = list(config_classes)
    names = _preset_names(Path(presets)) if presets is not None else []
    listed = f"Presets (--preset NAME), whose values replace the defaults shown here: {', '.join(names)}."
    parser = _Parser(
        classes,
        prog=prog,
        description=description,
        epilog=listed if names else None,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    for action in parser._actions:
        if action.nargs == "+" and action.default == []:
            action.nargs = "*"  # what is empty by default can be emptied, over a preset
    *parsed, unknown = parser.parse_args_into_dataclasses(args=argv, return_remaining_strings=True)
    if unknown and unknown[0].endswith((".yaml", ".yml")):
        raise ValueError(f"The configuration file {unknown[0]} comes first, before all flags.")
    if unknown:
        nearest = _nearest(unknown[0].lstrip("-").split("=")[0], _keys(config_classes))
        raise ValueError(f"Unknown argument `{unknown[0]}`. Did you mean `--{nearest}`? See --help for all.")
    return tuple(parsed)


def _keys(config_classes: Sequence[Any]) -> list[str]:
    return [field.name for config_class in config_classes for field in dataclasses.fields(config_class) if field.init]


def _nearest(key: str, known: Sequence[str]) -> str:
    return difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]


def _preset_names(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.yaml"))


def _choose_preset(
    folder: Path, argv: list[str], default: str | None, config_classes: Sequence[type]
) -> tuple[Path | None, list[str]]:
    names = _preset_names(folder)
    flags = {flag: name for one in config_classes for flag, name in getattr(one, "PRESETS", {}).items()}
    argv = [part for arg in argv for part in (arg.split("=", 1) if arg.startswith("--preset=") else [arg])]
    given = [flag for flag, name in flags.items() if _is_on(flag, argv) and name in names]
    chosen = [flags[flag] for flag in given]
    if "--preset" in argv:
        at = argv.index("--preset")
        chosen = argv[at + 1 : at + 2]
        argv = argv[:at] + argv[at + 2 :]
        if not chosen or chosen[0] not in names:
            raise ValueError(
                f"`--preset` must be one of {', '.join(names)}; got {chosen[0] if chosen else 'nothing'}."
            )
    if len(chosen) > 1:
        raise ValueError(f"--{' and --'.join(given)} are two presets: give one, and set what differs by flags.")
    name = chosen[0] if chosen else default
    return (folder / f"{name}.yaml" if name else None), argv


def _is_on(flag: str, argv: Sequence[str]) -> bool:
    """Tell whether a switch is on a command line, and not turned off there: `--flag`, `--flag true` or `--flag=true`."""
    values = [arg.partition("=")[2] for arg in argv if arg.startswith(f"--{flag}=")]
    values += [next(iter(argv[at + 1 : at + 2]), "") for at, arg in enumerate(argv) if arg == f"--{flag}"]
    return any(value.lower() not in ("false", "no", "f", "n", "0") for value in values)


def _flags_from_yaml(path: Path, config_classes: Sequence[type]) -> list[str]:
    """
    Turn a YAML file into flags, so that both go through one parser: `1e-4` is text to YAML and a number here.

    Values that begin with `./` or `../` are paths beside the file.
    """
    if not path.is_file():
        raise ValueError(f"There is no configuration file {path}. Pass the path of a YAML file, or flags alone.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}. Save it in that encoding.") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}. Mend that line.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold `field: value` lines; got a {type(values).__name__}.")
    known = _keys(config_classes)
    flags: list[str] = []
    for key, value in values.items():
        if key not in known:
            nearest = _nearest(str(key), known)
            raise ValueError(f"{path} has an unknown key `{key}`. Did you mean `{nearest}`? See --help for all keys.")
        if value is None:
            continue
        if isinstance(value, dict):
            value = json.dumps(value)
        if isinstance(value, str) and value.startswith(("./", "../")):
            value = (path.parent / value).resolve()
        flags += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    return flags


def settings_as_yaml(names: Sequence[str] = ()) -> str:
    """
    Write settings of [`SeqGANConfig`] as a commented YAML file that [`parse_config`] reads back to the defaults.

    Args:
        names (`Sequence[str]`): The fields to write. By default all: our own first, then those of `TrainingArguments`.

    Returns:
        `str`: a comment with description and choices, and a line `field: default`, for each. `null`, which leaves a field
        as it is, stands where the default is empty, or is computed when the run starts.

    Raises:
        ValueError: If there is no such field; the nearest is named.
    """
    fields = {entry.name: entry for entry in dataclasses.fields(SeqGANConfig) if entry.init}
    for name in names:
        if name not in fields:
            raise ValueError(f"There is no setting `{name}`. Did you mean `{_nearest(name, list(fields))}`?")
    types = get_type_hints(SeqGANConfig)
    written = {name: _commented(entry, types[name]) for name, entry in fields.items()}
    if names:
        return "\n".join(written[name] for name in dict.fromkeys(names))
    own = [name for name in SeqGANConfig.__annotations__ if name in fields]
    inherited = [name for name in fields if name not in own]
    ours, theirs = ("\n".join(written[name] for name in part) for part in (own, inherited))
    return f"{_YAML_HEAD}\n{ours}\n# Settings of transformers.TrainingArguments, as they are there.\n\n{theirs}"


_YAML_HEAD = """\
# The settings of a run, each at its default; `null` leaves a field as it is. Change what you like, drop the rest, and
# pass the file first: python recipes/obama_speech.py run.yaml --dataset_name FILE
"""


def _commented(entry: dataclasses.Field, hint: Any) -> str:
    """Write one field as comments, its description and its choices, and `name: default`."""
    enums = [kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and issubclass(kind, Enum)]
    choices = entry.metadata.get("choices") or [member.value for kind in enums for member in kind]
    comments = [" ".join(entry.metadata.get("help", "").split())]
    if choices:
        comments.append(f"One of: {', '.join(map(str, choices))}.")
    default = entry.default if entry.default_factory is dataclasses.MISSING else entry.default_factory()
    if isinstance(default, Enum):
        default = default.value
    line = yaml.safe_dump({entry.name: None if default in ("", []) else default}, width=1000)
    wrapped = [part for comment in comments for part in textwrap.wrap(comment, 117)]
    return "".join(f"# {part}\n" for part in wrapped) + line
