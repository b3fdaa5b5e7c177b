"""The page of a report: one file of HTML that needs no other, and asks for none."""

import base64
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from .checkpoints import write_whole
from .completions import one_line
from .plots import plot_quality_and_diversity, plot_runs
from .report import Findings, Run, settings_that_matter, warnings_of

_TEMPLATE = Path(__file__).parent / "templates" / "report.html"
# Ends of the scale, and its middle: dark text on each has a contrast above 7.
_GENERATED, _UNDECIDED, _REAL = (244, 165, 96), (255, 255, 255), (135, 190, 240)


@dataclass
class Picture:
    """A PNG as it stands in a page: its bytes in base64, what it shows in words, and its size in pixels."""

    data: str
    alt: str
    width: int
    height: int

    @classmethod
    def of(cls, path: Path, alt: str) -> "Picture":
        """Read a file."""
        content = path.read_bytes()
        width, height = struct.unpack(">II", content[16:24])
        return cls(base64.b64encode(content).decode(), alt, width, height)


def write_report(runs: Sequence[Run], findings: Sequence[Findings], path: str | Path) -> Path:
    """
    Write the report of some runs, and its pictures beside it.

    Args:
        runs (`Sequence[Run]`): One to four; of several with one name, each takes that of the folder around it along.
        findings (`Sequence[Findings]`): Of each run; an empty one if its networks were not asked.
        path (`str` or `Path`): The page. Pictures are `<its stem>_curves.png` and `<its stem>_plane.png`.

    Returns:
        `Path`: the page.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there are more runs than a picture holds.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)  # for the pictures, which are drawn first
    names = _distinct_names(runs)
    write_whole(path, render_report(runs, findings, names, *_draw(runs, names, path)))
    return path


def render_report(
    runs: Sequence[Run],
    findings: Sequence[Findings],
    names: Sequence[str],
    curves: Picture,
    plane: Picture | None,
) -> str:
    """
    Lay out a report. Whatever stands in a text, a name or a setting stays text.

    Args:
        runs (`Sequence[Run]`): At least one.
        findings (`Sequence[Findings]`): Of each.
        names (`Sequence[str]`): What each is called.
        curves (`Picture`): The learning curves.
        plane (`Picture`, *optional*): Quality and diversity.

    Returns:
        `str`: HTML.
    """
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    shown = [
        {"name": name, "warnings": warnings_of(run), "nearest": [_in_lines(pair) for pair in run.nearest]}
        | vars(found)
        for name, run, found in zip(names, runs, findings, strict=True)
    ]
    stages = [_stages(name, run) for name, run in zip(names, runs, strict=True) if run.stages]
    settings = [[name, *map(_written, values)] for name, values in settings_that_matter(runs).items()]
    sections = {
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


def _draw(runs: Sequence[Run], names: Sequence[str], path: Path) -> tuple[Picture, Picture | None]:
    histories = {name: run.history for name, run in zip(names, runs, strict=True)}
    drawn = plot_runs(histories if len(runs) > 1 else {"": runs[0].history}, path.with_name(f"{path.stem}_curves.png"))
    curves = Picture.of(drawn, f"Learning curves. {' '.join(map(_in_words, names, runs))}")
    planes = {
        f"{name}: {stage}" if len(runs) > 1 else stage: curve
        for name, run in zip(names, runs, strict=True)
        for stage, curve in run.curves.items()
    }
    axes = _axes_of(planes)
    if axes is None:
        return curves, None
    diversity, quality = axes
    drawn = plot_quality_and_diversity(
        planes,
        path.with_name(f"{path.stem}_plane.png"),
        "Each curve runs over the temperature; a star is temperature 1",
        (diversity, diversity),
        (quality, quality),
    )
    at_1 = [
        f"{name}: {quality} {point[quality]:.4g} at {diversity} {point[diversity]:.4g}."
        for name, curve in planes.items()
        for point in curve
        if point["temperature"] == 1
    ]
    return curves, Picture.of(drawn, f"Quality over diversity. At temperature 1, {' '.join(at_1)}")


def _axes_of(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[str, str] | None:
    """Return the metrics of diversity and quality that all curves have, of the longest n-grams."""
    common = set.intersection(*(set(point) for curve in curves.values() for point in curve)) if curves else set()
    if {"NLL_oracle", "NLL_test"} <= common:
        return "NLL_test", "NLL_oracle"
    orders = [order for order in (5, 4, 3, 2) if {f"bleu{order}", f"self_bleu{order}"} <= common]
    return (f"self_bleu{orders[0]}", f"bleu{orders[0]}") if orders else None


def _in_words(name: str, run: Run) -> str:
    """Say where the curves of a run begin and end, for whoever does not see them."""
    said = []
    for key, label in (("eval_nll", "held-out NLL"), ("reward/mean", "mean reward"), ("entropy", "entropy")):
        values = [entry[key] for entry in run.history if key in entry]
        if values:
            said.append(f"{label} {values[0]:.3g} to {values[-1]:.3g}")
    return f"{name}: {', '.join(said)}."


def _stages(name: str, run: Run) -> dict[str, Any]:
    columns = list(dict.fromkeys(metric for metrics in run.stages.values() for metric in metrics))
    rows = [
        [stage, *(f"{metrics[column]:.4f}" if column in metrics else "-" for column in columns)]
        for stage, metrics in run.stages.items()
    ]
    return {"name": name, "columns": ["", *columns], "rows": rows}


def _in_lines(pair: Mapping[str, str]) -> dict[str, str]:
    return {name: one_line(text) for name, text in pair.items()}


def _written(value: Any) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
