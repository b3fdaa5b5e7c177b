"""The page of a report: one file of HTML that needs no other, and asks for none."""

import base64
import difflib
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from .checkpoints import write_whole
from .completions import one_line
from .plots import PANELS, name_of_metric, plot_panel, plot_small_plane
from .remarks import CHECKS, axes_of, checks_of, in_short
from .report import Findings, Run, settings_that_matter

_TEMPLATE = Path(__file__).parent / "templates" / "report.html"
# Ends of the scale, and its middle: dark text on each has a contrast above 7.
_GENERATED, _UNDECIDED, _REAL = (244, 165, 96), (255, 255, 255), (135, 190, 240)
# Of the columns of a recipe's table, without the order of n-grams.
_MEANINGS = {
    "nll": "of held-out texts under the generator, nats a token; lower is better",
    "nll_best": "the lowest that the generator has at any temperature; lower is better",
    "NLL_test": "of held-out texts under the generator, nats a token; lower is more diverse",
    "NLL_oracle": "of samples under the oracle, nats a token; lower is better",
    "bleu": "n-grams that samples share with held-out texts; higher is better",
    "self_bleu": "n-grams that samples share with each other; lower is more diverse",
    "distinct": "different n-grams among those of the samples; higher is more diverse",
    "distinct_texts": "the share of samples that differ from all before; best near that of real texts",
    "novelty": "the share of n-grams that no training text has; best near that of real texts",
    "copied": "the share of samples that are a training text; best near that of real texts",
}


@dataclass
class Picture:
    """A PNG as it stands in a page: its title, its bytes in base64, what it shows in words, and its size in pixels."""

    title: str
    data: str
    alt: str
    width: int
    height: int

    @classmethod
    def of(cls, path: Path, title: str, alt: str) -> "Picture":
        """Read a file."""
        content = path.read_bytes()
        width, height = struct.unpack(">II", content[16:24])
        return cls(title, base64.b64encode(content).decode(), alt, width, height)


def write_report(runs: Sequence[Run], findings: Sequence[Findings], path: str | Path) -> Path:
    """
    Write the report of some runs, and its pictures beside it.

    Args:
        runs (`Sequence[Run]`): One to four; of several with one name, each takes that of the folder around it along.
        findings (`Sequence[Findings]`): Of each run; an empty one if its networks were not asked.
        path (`str` or `Path`): The page. Pictures are `<its stem>_<panel>.png`, by the names of `plots.PANELS`, and
            `<its stem>_plane.png`.

    Returns:
        `Path`: the page.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there are more runs than a picture holds.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)  # for the pictures, which are drawn first
    names = _distinct_names(runs)
    write_whole(
        path, render_report(runs, findings, names, _draw_curves(runs, names, path), _draw_plane(runs, names, path))
    )
    return path


def render_report(
    runs: Sequence[Run],
    findings: Sequence[Findings],
    names: Sequence[str],
    curves: Sequence[Picture],
    plane: Picture | None = None,
) -> str:
    """
    Lay out a report. Whatever stands in a text, a name or a setting stays text.

    Args:
        runs (`Sequence[Run]`): At least one.
        findings (`Sequence[Findings]`): Of each.
        names (`Sequence[str]`): What each is called.
        curves (`Sequence[Picture]`): The learning curves.
        plane (`Picture`, *optional*): Quality and diversity.

    Returns:
        `str`: HTML.
    """
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    shown = [_shown(name, run, found) for name, run, found in zip(names, runs, findings, strict=True)]
    stages = [_stages(name, run) for name, run in zip(names, runs, strict=True) if run.stages]
    settings = [[name, *map(_written, values)] for name, values in settings_that_matter(runs).items()]
    sections = {
        "short": ("In short", any(run["short"] for run in shown)),
        "warnings": ("What strikes", True),
        "results": ("Results", stages),
        "plane": ("Quality and diversity", plane),
        "curves": ("Learning curves", True),
        "samples": ("Samples over training", any(run["over_training"] for run in shown)),
        "verdicts": ("What the discriminator says", any(run["convincing"] for run in shown)),
        "nearest": ("Nearest training texts", any(run["nearest"] for run in shown)),
        "settings": ("Settings", settings),
    }
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=f"Report: {', '.join(names)}",
        runs=shown,
        stages=stages,
        plane=plane,
        curves=curves,
        ends=_ends(runs),
        settings=settings,
        sections=[(name, heading) for name, (heading, is_there) in sections.items() if is_there],
        shade=shade,
    )


def shade(reward: float) -> str:
    """
    Return the colour of a reward: orange for 0, white for 0.5, blue for 1, which differ for the colour-blind, too.

    Args:
        reward (`float`): In [0, 1].

    Returns:
        `str`: as `#rrggbb`.
    """
    end, far = (_REAL if reward > 0.5 else _GENERATED), abs(reward - 0.5) * 2
    mixed = (round(middle + (value - middle) * far) for middle, value in zip(_UNDECIDED, end, strict=True))
    return "#" + "".join(f"{value:02x}" for value in mixed)


def _distinct_names(runs: Sequence[Run]) -> list[str]:
    names = [run.name for run in runs]
    if len(set(names)) == len(names):
        return names
    names = [f"{run.folder.absolute().parent.name}/{run.name}" for run in runs]
    if len(set(names)) == len(names):
        return names
    return [f"{number}: {name}" for number, name in enumerate(names, start=1)]


def _draw_curves(runs: Sequence[Run], names: Sequence[str], path: Path) -> list[Picture]:
    histories = {name: run.history for name, run in zip(names, runs, strict=True)}
    pictures = []
    for panel, (title, curves) in PANELS.items():
        drawn = plot_panel(panel, histories, path.with_name(f"{path.stem}_{panel}.png"))
        if drawn:
            said = [f"{name}: {_in_words(run, curves)}." for name, run in zip(names, runs, strict=True)]
            pictures.append(Picture.of(drawn, title, f"{title}, over the updates. {' '.join(said)}"))
    return pictures


def _in_words(run: Run, curves: Mapping[str, str]) -> str:
    """Say where the curves of a run begin and end, for whoever does not see them."""
    ends = {label: _first_and_last(run, key) for key, label in curves.items()}
    return ", ".join(f"{label} {end}" for label, end in ends.items() if end) or "nothing logged"


def _first_and_last(run: Run, key: str) -> str:
    values = [entry[key] for entry in run.history if key in entry]
    return f"{values[0]:.3g} to {values[-1]:.3g}" if values else ""


def _ends(runs: Sequence[Run]) -> list[list[str]]:
    """Return a row for each curve that any run has: what it is, and where it begins and ends in each."""
    rows = [
        [f"{title}: {label}", *(_first_and_last(run, key) or "-" for run in runs)]
        for title, curves in PANELS.values()
        for key, label in curves.items()
    ]
    return [row for row in rows if set(row[1:]) != {"-"}]


def _draw_plane(runs: Sequence[Run], names: Sequence[str], path: Path) -> Picture | None:
    prefixes = [f"{name}: " if len(runs) > 1 else "" for name in names]
    planes = {
        f"{prefix}{stage}": curve
        for prefix, run in zip(prefixes, runs, strict=True)
        for stage, curve in run.curves.items()
    }
    axes = axes_of(planes)
    if axes is None:
        return None
    diversity, quality = axes
    for prefix, run in zip(prefixes, runs, strict=True):
        real = run.stages.get("real texts", {})
        if {diversity, quality} <= set(real):
            planes[f"{prefix}real texts"] = [{"temperature": 1.0, **real}]
    drawn = plot_small_plane(planes, path.with_name(f"{path.stem}_plane.png"), diversity, quality)
    at_1 = [
        f"{name}: {quality} {point[quality]:.4g} at {diversity} {point[diversity]:.4g}."
        for name, curve in planes.items()
        for point in curve
        if point["temperature"] == 1
    ]
    title = f"{name_of_metric(quality)} over {name_of_metric(diversity)}"
    return Picture.of(drawn, title, f"Quality over diversity. At temperature 1, {' '.join(at_1)}")


def _stages(name: str, run: Run) -> dict[str, Any]:
    columns = list(dict.fromkeys(metric for metrics in run.stages.values() for metric in metrics))
    rows = [
        [stage, *(f"{metrics[column]:.3f}" if column in metrics else "-" for column in columns)]
        for stage, metrics in run.stages.items()
    ]
    meanings = [
        f"{name}: {said}"
        for name, said in _MEANINGS.items()
        if any(re.fullmatch(rf"{name}\d?", column) for column in columns)
    ]
    return {"name": name, "columns": ["stage", *columns], "rows": rows, "meanings": meanings}


def _shown(name: str, run: Run, found: Findings) -> dict[str, Any]:
    """Return what the page says of a run, its texts in pieces that another has, too, or not."""
    checks = checks_of(run)
    over_training: dict[str, list[list[tuple[str, bool]]]] = {}
    before: list[str] | None = None
    for stage, texts in found.over_training.items():
        over_training[stage] = [
            [(text, False)] if before is None else in_pieces(text, before[number]) for number, text in enumerate(texts)
        ]
        before = texts
    pairs = [{kind: one_line(text) for kind, text in pair.items()} for pair in run.nearest]
    return {
        "name": name,
        "short": in_short(run),
        "warnings": [said for said in checks.values() if said],
        "checked": list(checks),
        "unchecked": [check for check in CHECKS if check not in checks],
        "over_training": over_training,
        "convincing": found.convincing,
        "unconvincing": found.unconvincing,
        "nearest": [pair | {"pieces": in_pieces(pair["sample"], pair["nearest"])} for pair in pairs],
    }


def in_pieces(text: str, other: str) -> list[tuple[str, bool]]:
    """
    Cut a text where it begins or ceases to be like another.

    Args:
        text, other (`str`): Words are compared; where there are no spaces, letters.

    Returns:
        `list[tuple[str, bool]]`: pieces, which joined are the text, and whether both have each.
    """
    between = " " if " " in text else ""
    own, others = ((value.split(" ") if between else list(value)) for value in (text, other))
    pieces = []
    for tag, start, end, _, _ in difflib.SequenceMatcher(None, own, others, autojunk=False).get_opcodes():
        if start < end:
            rest = between if end < len(own) else ""
            pieces += [(between.join(own[start:end]), tag == "equal"), (rest, False)]
    return [(piece, is_shared) for piece, is_shared in pieces if piece]


def _written(value: Any) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
