"""Pictures of a run, for whoever would rather look than read. Needs matplotlib: the extra `plots`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Title and unit of each panel, and its curves: log key -> legend.
_PANELS: tuple[tuple[str, dict[str, str]], ...] = (
    ("Reward of a token", {"reward/mean": "mean"}),
    (
        "Discriminator on texts it was not trained on",
        {
            "discriminator/held_out_auc": "AUC",
            "discriminator/held_out_accuracy_real": "accuracy, real",
            "discriminator/held_out_accuracy_generated": "accuracy, generated",
        },
    ),
    (
        "Generator, nats per token",
        {"entropy": "entropy", "mle_loss": "NLL, training texts", "eval_nll": "NLL, held out"},
    ),
    (
        "Seconds per update",
        {f"seconds/{phase}": phase for phase in ("generate", "rollout", "score", "generator", "discriminator")},
    ),
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
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Pictures need the package matplotlib: pip install 'seqgan_hf[plots]'.") from error
    figure = Figure(figsize=(11, 7), layout="constrained")
    for axes, (title, curves) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        for key, label in curves.items():
            points = [(entry["step"], entry[key]) for entry in log_history if key in entry]
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", label=label)
        if "reward/mean" in curves:
            _band(axes, log_history)
        if "discriminator/held_out_auc" in curves:
            axes.axhline(0.5, color="grey", linestyle=":", label="chance")
            axes.set_ylim(0, 1)
        axes.set(title=title, xlabel="updates of the generator")
        if axes.lines:
            axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    return Path(path)


def _band(axes: Any, log_history: Sequence[Mapping[str, Any]]) -> None:
    """Shade one standard deviation over tokens around the mean reward."""
    entries = [entry for entry in log_history if "reward/std" in entry]
    steps = [entry["step"] for entry in entries]
    low = [entry["reward/mean"] - entry["reward/std"] for entry in entries]
    high = [entry["reward/mean"] + entry["reward/std"] for entry in entries]
    axes.fill_between(steps, low, high, alpha=0.2, label="one standard deviation")
