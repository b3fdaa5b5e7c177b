"""
Measure how the time of rollouts grows with length, rollouts, batch and vocabulary, and draw it.

    OMP_NUM_THREADS=1 python benchmarks/growth.py --figure docs/images/growth.png --save benchmarks/results/growth.json

One size is swept at a time, by the paper's LSTM; the others stay at a small base, so that the whole takes minutes. An
exponent is the slope over the upper half of a sweep on logarithmic axes, and stands beside that of the tokens that must
be sampled (times the vocabulary, whose every word costs the same).
"""

import json
import math
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from measuring import finish, interleave, make_parser, summary
from operations import sampled_tokens
from rollouts import Finished, build_model, consume, count_sampled, lockstep, write_completions
from transformers import GenerationConfig, PreTrainedModel

from seqgan_hf.completions import Completions

torch.set_num_threads(1)

_INK, _GREY, _BLUE, _ORANGE = "#222222", "#6b6b6b", "#2563a8", "#c2570c"


@dataclass(frozen=True)
class Size:
    """
    One point.

    Args:
        length, num_rollouts, batch_size, vocab_size, stride (`int`): T, N, B, V and k.
    """

    length: int = 20
    num_rollouts: int = 4
    batch_size: int = 16
    vocab_size: int = 5000
    stride: int = 1

    @property
    def tokens(self) -> int:
        """Tokens that must be sampled."""
        return sampled_tokens(self.batch_size, self.length, self.num_rollouts, self.stride)


@dataclass(frozen=True)
class Sweep:
    """
    What is varied.

    Args:
        field (`str`): Of [`Size`].
        values (`Sequence[int]`): Rising.
        stride (`int`): Every so many tokens a prefix is rolled out.
    """

    field: str
    values: Sequence[int]
    stride: int = 1

    def sizes(self, base: Size) -> list[Size]:
        """Return the points, of which all else is as in `base`."""
        return [replace(base, stride=self.stride, **{self.field: value}) for value in self.values]


SWEEPS = {
    "length, stride 1": Sweep("length", (16, 32, 64, 128, 256)),
    "length, stride 8": Sweep("length", (16, 32, 64, 128, 256), stride=8),
    "rollouts": Sweep("num_rollouts", (4, 8, 16, 32, 64)),
    "batch": Sweep("batch_size", (16, 32, 64, 128, 256)),
    "vocabulary": Sweep("vocab_size", (5_000, 10_000, 20_000, 50_000, 100_000, 150_000)),
}


def fit_exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """
    Return the exponent of the power law that fits the upper half of a sweep best: least squares on the logarithms.

    Small sizes are left out: costs that do not grow, such as those of a forward pass as such, bend the curve there.

    Args:
        sizes (`Sequence[float]`): What was varied, above 0 and rising; at least two.
        values (`Sequence[float]`): What came out, above 0.

    Returns:
        `float`

    Raises:
        ValueError: If there are fewer than two points.
    """
    if len(sizes) < 2:
        raise ValueError(f"An exponent needs at least two points, got {len(sizes)}.")
    upper = max(math.ceil(len(sizes) / 2), 2)
    x, y = ([math.log(value) for value in series[-upper:]] for series in (sizes, values))
    mean_x, mean_y = sum(x) / upper, sum(y) / upper
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return covariance / sum((a - mean_x) ** 2 for a in x)


def measure(sweeps: Mapping[str, Sweep], base: Size, args: Namespace) -> dict[str, Any]:
    """
    Time every point of every sweep, in turns; a point that several have is measured once.

    Args:
        sweeps (`Mapping[str, Sweep]`): By name.
        base (`Size`): Where the sizes stand that are not varied.
        args (`Namespace`): `rollout_batch_size` and `repeats`.

    Returns:
        `dict`: by sweep, its `field`, `stride`, `points` (`size`, `seconds`, `tokens`, and `theory`, the work relative to
        the first point), and the `exponent` measured and the `theory_exponent`.

    Raises:
        RuntimeError: If other tokens were sampled than must be.
    """
    points = {str(size): size for sweep in sweeps.values() for size in sweep.sizes(base)}
    prepared = {name: _prepare(size) for name, size in points.items()}
    tasks = {name: partial(_roll, *prepared[name], size, args.rollout_batch_size) for name, size in points.items()}
    tasks[min(points, key=lambda name: points[name].tokens)]()  # the first run of a process loads the kernels
    measured = interleave(
        tasks, args.repeats, digest=lambda name, finished: count_sampled(finished, prepared[name][1])
    )
    results: dict[str, Any] = {}
    for name, sweep in sweeps.items():
        rows = []
        for value, size in zip(sweep.values, sweep.sizes(base), strict=True):
            task = measured[str(size)]
            if set(task.values) != {size.tokens}:
                raise RuntimeError(f"{size} sampled {task.values} tokens; expected {size.tokens}.")
            work = size.tokens * size.vocab_size
            rows.append({"size": value, "seconds": summary(task.seconds), "tokens": size.tokens, "theory": work})
        results[name] = {
            "field": sweep.field,
            "stride": sweep.stride,
            "points": [{**row, "theory": row["theory"] / rows[0]["theory"]} for row in rows],
            "exponent": fit_exponent(sweep.values, [row["seconds"]["median"] for row in rows]),
            "theory_exponent": fit_exponent(sweep.values, [row["theory"] for row in rows]),
        }
    return results


def _prepare(size: Size) -> tuple[PreTrainedModel, Completions, GenerationConfig]:
    model = build_model("lstm", size.vocab_size, size.length)
    return model, *write_completions(model, size.batch_size, size.length)


def _roll(
    model: PreTrainedModel,
    completions: Completions,
    generation_config: GenerationConfig,
    size: Size,
    rollout_batch_size: int,
) -> list[Finished]:
    method = partial(lockstep, batch_size=rollout_batch_size, stride=size.stride)
    return consume(method, model, completions, generation_config, size.num_rollouts)


# ---- The picture ---------------------------------------------------------------------------------------------------

# Title, label of the x axis, and the sweeps with their colours.
_PANELS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("Length", "tokens of a completion, T", {"length, stride 1": _BLUE, "length, stride 8": _ORANGE}),
    ("Rollouts", "rollouts of each prefix, N", {"rollouts": _BLUE}),
    ("Batch", "completions in a batch, B", {"batch": _BLUE}),
    ("Vocabulary", "words of the vocabulary, V", {"vocabulary": _BLUE}),
)


def draw(sweeps: Mapping[str, Any], base: Mapping[str, int], path: Path) -> None:
    """
    Draw measured times and the theory's lines, four panels on logarithmic axes, readable at a width of 1,000 pixels.

    Args:
        sweeps (`Mapping`): From [`measure`].
        base (`Mapping`): Where the sizes stand that a panel does not vary.
        path (`Path`): The PNG file to write.
    """
    figure = Figure(figsize=(10, 7.4), layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    for axes, (title, label, series) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        for name, colour in series.items():
            _draw_sweep(axes, sweeps[name], colour, f"stride {sweeps[name]['stride']}, " if len(series) > 1 else "")
        axes.set_title(title, fontsize=12, fontweight="bold", color=_INK, loc="left")
        axes.set_xlabel(label, fontsize=10.5, color=_INK)
        axes.set_ylabel("CPU seconds of all rollouts", fontsize=10.5, color=_INK)
        axes.set(xscale="log", yscale="log")
        # Curves rise, so that the room for a legend, two lines each, is below them on the right.
        low, high = axes.dataLim.intervaly
        axes.set_ylim(bottom=low / (high / low) ** (0.15 * (1 + len(series))))
        sizes = [point["size"] for point in sweeps[next(iter(series))]["points"]]
        axes.xaxis.set(major_locator=FixedLocator(sizes), minor_locator=NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(_short))
        ticks = (1.0, 2.0, 5.0) if high / low < 1000 else (1.0,)
        axes.yaxis.set(major_locator=LogLocator(subs=ticks), minor_locator=NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.tick_params(labelsize=9.5, colors=_INK)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        handles, labels = axes.get_legend_handles_labels()
        # matplotlib puts lines before points; what was measured comes first.
        entries = sorted(zip(labels, handles, strict=True), key=lambda entry: entry[0])
        axes.legend(
            [handle for _, handle in entries], [label for label, _ in entries], fontsize=9.5, loc="lower right",
            labelcolor=_INK, facecolor="white", framealpha=0.9, edgecolor="none",
        )  # fmt: skip
    sizes = "T {length}, N {num_rollouts}, B {batch_size}, V {vocab_size:,}".format(**base)
    figure.supxlabel(f"LSTM 32/32, one thread; what a panel does not vary is at {sizes}", fontsize=9.5, color=_GREY)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=200, metadata={"Software": None})


def _draw_sweep(axes: Axes, sweep: Mapping[str, Any], colour: str, name: str) -> None:
    points = sweep["points"]
    sizes = [point["size"] for point in points]
    medians, lows, highs = ([point["seconds"][key] for point in points] for key in ("median", "min", "max"))
    # Through the last point, where what does not grow weighs least.
    theory = [medians[-1] * point["theory"] / points[-1]["theory"] for point in points]
    errors = [
        [median - low for median, low in zip(medians, lows, strict=True)],
        [high - median for median, high in zip(medians, highs, strict=True)],
    ]
    axes.errorbar(
        sizes, medians, yerr=errors, color=colour, fmt="o", markersize=6, capsize=3, elinewidth=1.2, zorder=3,
        label=f"{name}measured: exponent {sweep['exponent']:.2f}",
    )  # fmt: skip
    axes.plot(
        sizes, theory, color=colour, linestyle=(0, (4, 2)), linewidth=1.2, alpha=0.8,
        label=f"{name}theory: exponent {sweep['theory_exponent']:.2f}",
    )  # fmt: skip


def _short(value: float, _: int) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


# ---- The script ----------------------------------------------------------------------------------------------------


def main() -> None:
    parser = make_parser(__doc__)
    base = Size()
    parser.add_argument("--length", type=int, default=base.length, help="T while another size is swept.")
    parser.add_argument("--num_rollouts", type=int, default=base.num_rollouts, help="N while another size is swept.")
    parser.add_argument("--batch_size", type=int, default=base.batch_size, help="B while another size is swept.")
    parser.add_argument("--vocab_size", type=int, default=base.vocab_size, help="V while another size is swept.")
    parser.add_argument("--rollout_batch_size", type=int, default=1024, help="The most rollouts alive.")
    parser.add_argument("--points", type=int, help="The first so many points of each sweep; all by default.")
    parser.add_argument("--figure", type=Path, help="Draw the growth to this PNG file.")
    parser.add_argument("--draw", type=Path, help="Measure nothing: draw what this saved result holds.")
    args = parser.parse_args()
    if args.draw is not None and args.figure is None:
        parser.error("--draw needs --figure: the PNG file to write.")
    if args.draw is not None:
        saved = json.loads(args.draw.read_text(encoding="utf-8"))
        draw(saved["results"], saved["settings"], args.figure)
        return
    base = Size(**{name: getattr(args, name) for name in ("length", "num_rollouts", "batch_size", "vocab_size")})
    sweeps = {name: replace(sweep, values=sweep.values[: args.points]) for name, sweep in SWEEPS.items()}
    results = measure(sweeps, base, args)
    settings = {**vars(base), "rollout_batch_size": args.rollout_batch_size}
    finish("growth", args, settings, results)
    if args.figure is not None:
        draw(results, settings, args.figure)


if __name__ == "__main__":
    main()
