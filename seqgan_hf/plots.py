"""Pictures of a run, for whoever would rather look than read. Needs matplotlib: the extra `plots`."""

import contextlib
import itertools
import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .music import PITCH_OF_KEY_0, parse_melody

_STATE_NAME = "trainer_state.json"
_RUN_STYLES = ("-", "--", ":", "-.")
_NOTES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
# On a phone 390 pixels wide a picture is 358 of them wide, and these letters are then 14 pixels high.
_SMALL_WIDTH, _SMALL_HEIGHT, _SMALL_FONT, _SMALL_DPI, _SMALL_LABEL = 3.7, 2.7, 10.5, 200, 38
_SMALL_COLORS = ("#0b4f9e", "#c04000", "#1b7a3d", "#8a3ab9", "#6b5b00", "#c2185b")  # each 4.5 to 1 on white, or more
_BLEU = {"bleu2": "BLEU-2", "bleu3": "BLEU-3", "bleu4": "BLEU-4"}

# By a name, title and unit of each panel, and its curves: log key -> legend.
PANELS: dict[str, tuple[str, dict[str, str]]] = {
    "reward": ("Reward of a token", {"reward/mean": "mean"}),
    "discriminator": (
        "Discriminator on texts it was not trained on",
        {
            "discriminator/held_out_auc": "AUC",
            "discriminator/held_out_accuracy_real": "accuracy, real",
            "discriminator/held_out_accuracy_generated": "accuracy, generated",
        },
    ),
    "entropy": ("Entropy of the generator, nats per token", {"entropy": "entropy"}),
    "nll": (
        "Negative log-likelihood, nats per token",
        {"mle_loss": "NLL, training texts", "eval_nll": "NLL, held out"},
    ),
    "kl": ("KL of the generator to the reference, nats per token", {"kl": "KL to the reference"}),
    "seconds": (
        "Seconds per update",
        {f"seconds/{phase}": phase for phase in ("generate", "rollout", "score", "generator", "discriminator")},
    ),
}
# In one picture the generator's have one panel.
_QUARTERS = (
    PANELS["reward"],
    PANELS["discriminator"],
    ("Generator, nats per token", {**PANELS["entropy"][1], **PANELS["nll"][1], **PANELS["kl"][1]}),
    PANELS["seconds"],
)


def plot_learning_curves(log_history: Sequence[Mapping[str, Any]], path: str | Path) -> Path:
    """
    Draw the learning curves of a run: rewards, the discriminator's verdicts, the generator, and where the time goes.

    Args:
        log_history (`Sequence[Mapping]`): `trainer.state.log_history`, or that of a `trainer_state.json`.
        path (`str` or `Path`): The PNG file to write.

    Returns:
        `Path`: the file.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    return plot_runs({"": log_history}, path)


def plot_runs(histories: Mapping[str, Sequence[Mapping[str, Any]]], path: str | Path) -> Path:
    """
    Draw the learning curves of several runs over each other: a colour for each curve, a line style for each run.

    Args:
        histories (`Mapping`): For each run's name its `log_history`.
        path (`str` or `Path`): The PNG file to write.

    Returns:
        `Path`: the file.

    Raises:
        ValueError: If there are more runs than line styles, four.
        ImportError: If matplotlib is not installed.
    """
    styles = _styles_of(histories)
    figure = _new_figure(figsize=(11, 7))
    for axes, (title, curves) in zip(figure.subplots(2, 2).flat, _QUARTERS, strict=True):
        _draw_panel(axes, curves, histories, styles)
        axes.set(title=title, xlabel="updates of the generator")
        if axes.lines:
            axes.legend(fontsize="small")
    if len(histories) > 1:
        handles = [figure.axes[0].plot([], [], color="black", linestyle=style)[0] for style in styles.values()]
        figure.legend(handles, styles, loc="outside lower center", ncols=2, fontsize="small")
    figure.savefig(path, dpi=120)
    return Path(path)


def plot_panel(panel: str, histories: Mapping[str, Sequence[Mapping[str, Any]]], path: str | Path) -> Path | None:
    """
    Draw one panel of the learning curves, small enough for a phone, and with letters that can be read there.

    Args:
        panel (`str`): A name of `PANELS`, whose title is not in the picture.
        histories (`Mapping`): As of [`plot_runs`].
        path (`str` or `Path`): The PNG file to write.

    Returns:
        `Path`, *optional*: the file; `None` if no run has logged any of the curves.

    Raises:
        ValueError: If there are more runs than line styles, four.
        ImportError: If matplotlib is not installed.
    """
    _, curves = PANELS[panel]
    styles = _styles_of(histories)
    if not any(key in entry for log_history in histories.values() for entry in log_history for key in curves):
        return None
    with _small_axes(path) as axes:
        _draw_panel(axes, curves, histories, styles)
        axes.set(xlabel="updates of the generator")
        if len(histories) > 1:
            for name, style in styles.items():
                axes.plot([], [], color="black", linestyle=style, label=name)
    return Path(path)


def read_log_history(run: str | Path) -> list[dict[str, Any]]:
    """
    Read what a run has logged.

    Args:
        run (`str` or `Path`): Its `output_dir`, a checkpoint, or a `trainer_state.json`. In an `output_dir` without that
            file the last checkpoint has it.

    Returns:
        `list[dict]`: one entry a log, each with its `step`.

    Raises:
        ValueError: If there is no such file, or nothing in it that [`plot_learning_curves`] draws.
    """
    state = _find_state(Path(run))
    try:
        history = json.loads(state.read_text(encoding="utf-8"))["log_history"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{state} is not the state of a Trainer: it lacks `log_history`.") from error
    drawn = {key for _, curves in PANELS.values() for key in curves}
    if not any(drawn & set(entry) for entry in history):
        raise ValueError(
            f"There is nothing to plot in {state}: its {len(history)} logs have none of the curves. A run logs every "
            "`logging_steps` updates of the generator."
        )
    return history


def _find_state(run: Path) -> Path:
    """Return the `trainer_state.json` that a path stands for."""
    if run.is_file():
        return run
    if not run.is_dir():
        raise ValueError(f"There is no run {run}. Pass its output_dir, a checkpoint, or a {_STATE_NAME}.")
    if (run / _STATE_NAME).is_file():
        return run / _STATE_NAME
    checkpoints = {
        int(state.parent.name.removeprefix("checkpoint-")): state
        for state in run.glob(f"checkpoint-*/{_STATE_NAME}")
        if state.parent.name.removeprefix("checkpoint-").isdecimal()
    }
    if not checkpoints:
        raise ValueError(
            f"There is nothing to plot in {run}: neither it nor a checkpoint in it has a {_STATE_NAME}. Pass the "
            "output_dir of a run that was saved."
        )
    return checkpoints[max(checkpoints)]


def plot_temperature_sweep(sweep: Sequence[Mapping[str, float]], path: str | Path, title: str = "") -> Path:
    """
    Draw quality against held-out likelihood, one point a temperature, and both over the temperature.

    Args:
        sweep (`Sequence[Mapping]`): From [`~seqgan_hf.evaluation.temperature_sweep`].
        path (`str` or `Path`): The PNG file to write.
        title (`str`): Above the picture, such as the model's name.

    Returns:
        `Path`: the file.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    figure = _new_figure(figsize=(11, 6))
    figure.suptitle(title, wrap=True)
    panels = figure.subplot_mosaic([["trade", "nll"], ["trade", "bleu"]], width_ratios=[3, 2])
    temperatures = [point["temperature"] for point in sweep]
    nll = [point["nll"] for point in sweep]
    models = [point for point in sweep if point["temperature"] == 1]
    star = {"marker": "*", "markersize": 15, "linestyle": "", "markeredgecolor": "black", "zorder": 3}
    for index, (key, label) in enumerate(_BLEU.items()):
        bleu = [point[key] for point in sweep]
        for axes, x, where in ((panels["trade"], nll, "nll"), (panels["bleu"], temperatures, "temperature")):
            axes.plot(x, bleu, marker="o", color=f"C{index}", label=label)
            axes.plot([model[where] for model in models], [model[key] for model in models], color=f"C{index}", **star)
    panels["nll"].plot(temperatures, nll, marker="o", color="dimgrey")
    panels["nll"].plot([1] * len(models), [model["nll"] for model in models], color="dimgrey", **star)
    turn = min(sweep, key=lambda point: point["nll"])["temperature"]
    for point in sweep:
        # The curve turns back where NLL is lowest: to the left of it, and outside its two arms, is room for labels.
        side = (point["temperature"] < turn) - (point["temperature"] > turn)
        panels["trade"].annotate(
            f"T = {point['temperature']:g}", (point["nll"], point["bleu2"]), (-10, 8 * side), fontsize="small",
            textcoords="offset points", ha="right", va="center",
        )  # fmt: skip
    panels["trade"].margins(x=0.15)
    panels["trade"].set(
        title="Samples against likelihood: up and to the left is better",
        xlabel="held-out NLL, nats per token (lower is better)",
        ylabel="BLEU of samples (higher is better)",
    )
    panels["nll"].set(title="Held-out NLL, nats per token")
    panels["bleu"].set(title="BLEU of samples", xlabel="temperature T")
    panels["trade"].plot([], [], color="white", **star, label="T = 1, the model itself")
    figure.legend(*panels["trade"].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    for name, axes in panels.items():
        axes.grid(alpha=0.3)
        if name != "nll":
            axes.set_ylim(bottom=0)
    figure.savefig(path, dpi=120)
    return Path(path)


def plot_quality_and_diversity(
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    path: str | Path,
    title: str = "Down and to the left is better; each curve runs over the temperature",
    diversity: tuple[str, str] = (
        "NLL_test",
        "NLL_test: held-out texts under the generator, nats per token (diversity)",
    ),
    quality: tuple[str, str] = ("NLL_oracle", "NLL_oracle: samples under the oracle, nats per token (quality)"),
    looks: Mapping[str, int] | None = None,
) -> Path:
    """
    Draw generators on the plane of quality and diversity: a curve over the temperature for each. At the ends of the first
    curve stand their temperatures.

    Args:
        curves (`Mapping`): For each generator's name what [`~seqgan_hf.evaluation.oracle_curve`] found, or other metrics
            over `temperature`.
        path (`str` or `Path`): The PNG file to write.
        title (`str`): Above the picture.
        diversity, quality (`tuple[str, str]`): The metric of the horizontal and of the vertical axis, and its label.
        looks (`Mapping[str, int]`, *optional*): Which of the ten colours, each with its marker, a generator has, so that
            it looks alike in several pictures; by default in their order.

    Returns:
        `Path`: the file.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    figure = _new_figure(figsize=(8, 6))
    axes = figure.subplots()
    _draw_plane(axes, curves, diversity[0], quality[0], looks)
    _write_temperatures(axes, curves, diversity[0], quality[0])
    axes.set(title=title, xlabel=diversity[1], ylabel=quality[1])
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    return Path(path)


def plot_small_plane(
    curves: Mapping[str, Sequence[Mapping[str, float]]], path: str | Path, diversity: str, quality: str
) -> Path:
    """
    Draw generators on the plane of quality and diversity, small enough for a phone, and with letters that can be read
    there. At the ends of the first curve stand their temperatures.

    Args:
        curves (`Mapping`): For each generator's name metrics over `temperature`.
        path (`str` or `Path`): The PNG file to write.
        diversity, quality (`str`): The metrics of the horizontal and of the vertical axis.

    Returns:
        `Path`: the file.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    with _small_axes(path) as axes:
        _draw_plane(axes, curves, diversity, quality)
        _write_temperatures(axes, curves, diversity, quality)
        axes.margins(x=0.15, y=0.12)
        axes.set(xlabel=name_of_metric(diversity), ylabel=name_of_metric(quality))
    return Path(path)


def name_of_metric(metric: str) -> str:
    """Return a metric's name as a reader knows it: `BLEU-3` for `bleu3`."""
    return re.sub(r"bleu(\d)", r"BLEU-\1", metric).replace("_BLEU", "-BLEU")


def plot_piano_rolls(
    rolls: Mapping[str, Sequence[Sequence[int] | str]], path: str | Path, title: str = "", step_seconds: float = 0.4
) -> Path:
    """
    Draw melodies as piano rolls: keys over time, a row of pictures for each name, all on the same axes.

    Args:
        rolls (`Mapping`): For each name, such as "real" or "SeqGAN", its melodies: a token a step, 0 for a rest, 1 to 88
            for the keys of a piano. A few of each; equal keys in a row are drawn as one note.
        path (`str` or `Path`): The PNG file to write.
        title (`str`): Above the picture.
        step_seconds (`float`): How long a step lasts.

    Returns:
        `Path`: the file.

    Raises:
        ValueError: If there is no melody, or a token of one is not an integer from 0 to 88.
        ImportError: If matplotlib is not installed.
    """
    melodies = {name: [parse_melody(melody, "rolls") for melody in row] for name, row in rolls.items()}
    if not melodies or not all(melodies.values()):
        raise ValueError("There is nothing to plot: `rolls` must hold at least one melody for each name.")
    every = [melody for row in melodies.values() for melody in row]
    keys = [key for melody in every for key in melody if key] or [40]
    shown = range(min(keys) - 1, max(keys) + 2)
    columns = max(map(len, melodies.values()))
    figure = _new_figure(figsize=(1 + 2.7 * columns, 0.7 + 1.8 * len(melodies)))
    figure.suptitle(title, wrap=True)
    grid = figure.subplots(len(melodies), columns, sharex=True, sharey=True, squeeze=False)
    for index, (name, row) in enumerate(melodies.items()):
        grid[index, 0].set_ylabel(name, fontweight="bold", color=f"C{index % 10}")
        for axes, melody in zip(grid[index], row, strict=False):
            _draw_keyboard(axes, shown)
            _draw_melody(axes, melody, step_seconds, f"C{index % 10}")
        for axes in grid[index, len(row) :]:
            axes.set_visible(False)
    for column in grid.T:
        *_, lowest = (axes for axes in column if axes.get_visible())
        lowest.tick_params(labelbottom=True)
    # All white keys have their name where there is room.
    named = ("C", "D", "E", "F", "G", "A", "B") if len(shown) <= 15 else ("C", "G")
    ticks = {key: note_name(key) for key in shown if note_name(key)[:-1] in named}
    grid[0, 0].set_yticks(list(ticks), list(ticks.values()))
    grid[0, 0].set(xlim=(0, step_seconds * max(map(len, every))), ylim=(shown[0] - 0.5, shown[-1] + 0.5))
    figure.supxlabel("seconds", fontsize="medium")
    figure.savefig(path, dpi=120)
    return Path(path)


def plot_verdicts(
    sources: Mapping[str, Mapping[str, Any]], path: str | Path, title: str = "Judged real, with 95 % intervals"
) -> Path:
    """
    Draw what share of each source's texts was judged real: by people, with intervals, and by discriminators.

    Args:
        sources (`Mapping`): As [`~seqgan_hf.verdicts.verdicts_of`] has them.
        path (`str` or `Path`): The PNG file to write.
        title (`str`): Above the picture.

    Returns:
        `Path`: the file.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    figure = _new_figure(figsize=(8, 1.6 + 0.6 * len(sources)))
    axes = figure.subplots()
    for place, found in enumerate(sources.values()):
        if found["share"] is not None:
            below, above = found["share"] - found["low"], found["high"] - found["share"]
            axes.errorbar(
                found["share"], place, xerr=[[below], [above]], fmt="o", color="C0", capsize=4, markersize=8,
                label="people" if place == 0 else None,
            )  # fmt: skip
        for index, (judge, share) in enumerate(found["discriminators"].items(), start=1):
            axes.plot(
                share, place, marker="D", linestyle="", color=f"C{index % 10}", markerfacecolor="none",
                label=f"discriminator of {judge}" if place == 0 else None,
            )  # fmt: skip
    axes.axvline(0.5, color="0.7", linewidth=1, zorder=0)
    axes.set_yticks(range(len(sources)), list(sources))
    axes.invert_yaxis()
    axes.set(title=title, xlabel="share judged real", xlim=(-0.02, 1.02), ylim=(len(sources) - 0.5, -0.5))
    axes.grid(axis="x", alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=120)
    return Path(path)


def _draw_keyboard(axes: Any, keys: Sequence[int]) -> None:
    """Shade the black keys, and draw a line below each C."""
    for key in keys:
        if "#" in note_name(key):
            axes.axhspan(key - 0.5, key + 0.5, color="0.95", linewidth=0, zorder=0)
        elif note_name(key).startswith("C"):
            axes.axhline(key - 0.5, color="0.8", linewidth=0.8, zorder=1)
    axes.grid(axis="x", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize="small", labelbottom=False)
    axes.spines[:].set_color("0.8")


def _draw_melody(axes: Any, melody: Sequence[int], step_seconds: float, color: str) -> None:
    """Draw equal keys in a row as one bar, with a thin line from bar to bar, and rests as nothing."""
    times = [step * step_seconds for step in range(len(melody) + 1)]
    start = 0
    for key, held in itertools.groupby(melody):
        end = start + len(list(held))
        if key:
            axes.broken_barh([(times[start], times[end] - times[start])], (key - 0.5, 1), facecolor=color, zorder=3)
        start = end
    line = [key or float("nan") for key in melody]
    axes.stairs(line, times, baseline=None, color=color, alpha=0.4, zorder=2)


def note_name(key: int) -> str:
    """
    Return the name of a piano's key: C4 for key 40.

    Args:
        key (`int`): From 1 to 88.
    """
    octave, note = divmod(key + PITCH_OF_KEY_0, 12)
    return f"{_NOTES[note]}{octave - 1}"


def _styles_of(histories: Mapping[str, Any]) -> dict[str, str]:
    if len(histories) > len(_RUN_STYLES):
        raise ValueError(f"One picture holds {len(_RUN_STYLES)} runs at most; got {len(histories)}.")
    return dict(zip(histories, _RUN_STYLES, strict=False))


@contextlib.contextmanager
def _small_axes(path: str | Path) -> Iterator[Any]:
    """Yield axes to draw on, and save them with their legend below; a name in it is no formula."""
    figure = _new_figure(figsize=(_SMALL_WIDTH, _SMALL_HEIGHT))
    from matplotlib import rc_context

    colors = f"cycler(color={list(_SMALL_COLORS)})"
    style: Any = {"font.size": _SMALL_FONT, "text.parse_math": False, "axes.prop_cycle": colors}
    with rc_context(style):
        axes = figure.subplots()
        yield axes
        axes.grid(alpha=0.3)
        handles, labels = axes.get_legend_handles_labels()
        labels = [textwrap.fill(label, _SMALL_LABEL) for label in labels]
        figure.legend(handles, labels, loc="outside lower left", frameon=False, borderpad=0)
        lines = sum(label.count("\n") + 1 for label in labels)
        figure.set_figheight(_SMALL_HEIGHT + lines * _SMALL_FONT * 1.5 / 72)
        figure.savefig(path, dpi=_SMALL_DPI)


def _new_figure(figsize: tuple[float, float]) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Pictures need the package matplotlib: pip install 'seqgan_hf[plots]'.") from error
    return Figure(figsize=figsize, layout="constrained")


def _write_temperatures(
    axes: Any, curves: Mapping[str, Sequence[Mapping[str, float]]], diversity: str, quality: str
) -> None:
    """Write the temperatures at the ends of the first curve beside them."""
    first = sorted(next(iter(curves.values())), key=lambda point: point["temperature"])
    for point in (first[0], first[-1]):
        where = (point[diversity], point[quality])
        axes.annotate(f"{point['temperature']:g}", where, (5, -12), textcoords="offset points")


_MARKERS = "os^DvPX<>p"


def _draw_plane(
    axes: Any,
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    diversity: str,
    quality: str,
    looks: Mapping[str, int] | None = None,
) -> None:
    """Draw a curve over the temperature for each generator, with a star at temperature 1."""
    for index, (name, curve) in enumerate(curves.items()):
        points = sorted(curve, key=lambda point: point["temperature"])
        look = (looks[name] if looks else index) % 10
        color = f"C{look}"
        axes.plot(
            [point[diversity] for point in points],
            [point[quality] for point in points],
            marker=_MARKERS[look],
            markersize=4,
            color=color,
            label=name,
        )
        models = [point for point in points if point["temperature"] == 1]
        axes.plot(
            [point[diversity] for point in models],
            [point[quality] for point in models],
            marker="*",
            markersize=14,
            linestyle="",
            markeredgecolor="black",
            color=color,
            zorder=3,
        )
    axes.plot([], [], "*", color="white", markersize=14, markeredgecolor="black", label="temperature 1")


def _draw_panel(
    axes: Any,
    curves: Mapping[str, str],
    histories: Mapping[str, Sequence[Mapping[str, Any]]],
    styles: Mapping[str, str],
) -> None:
    """Draw the curves of a panel, of all runs, each with its label for a legend."""
    for index, (key, label) in enumerate(curves.items()):
        for name, log_history in histories.items():
            points = [(entry["step"], entry[key]) for entry in log_history if key in entry]
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", color=f"C{index}", linestyle=styles[name])
        if any(key in entry for log_history in histories.values() for entry in log_history):
            axes.plot([], [], marker=".", color=f"C{index}", label=label)  # for the legend, in any run's style
    if "reward/mean" in curves and len(histories) == 1:
        _band(axes, *histories.values())
    if "discriminator/held_out_auc" in curves:
        axes.axhline(0.5, color="grey", linestyle=":", label="chance")
        axes.set_ylim(0, 1)


def _band(axes: Any, log_history: Sequence[Mapping[str, Any]]) -> None:
    """Shade one standard deviation over tokens around the mean reward."""
    entries = [entry for entry in log_history if "reward/std" in entry]
    steps = [entry["step"] for entry in entries]
    low = [entry["reward/mean"] - entry["reward/std"] for entry in entries]
    high = [entry["reward/mean"] + entry["reward/std"] for entry in entries]
    axes.fill_between(steps, low, high, alpha=0.2, label="one standard deviation")
