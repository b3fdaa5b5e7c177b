"""What the figures of a run say, in sentences: the outcome in short, and what is known to go wrong."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .callbacks import ALWAYS_RIGHT, COLLAPSED
from .plots import name_of_metric
from .report import Run
from .stages import CONTROL, MLE, REAL_TEXTS, SEQGAN, SEQGAN_AT
from .text_measures import point_between, temperature_where

_MEMORISED, _INVERTED = 0.05, 0.45


def in_short(run: Run) -> list[str]:
    """
    Say how a run ended: against where it began, against a colder generator, and against its controls.

    Args:
        run (`Run`): Any; the less it has measured, the less is said.

    Returns:
        `list[str]`: sentences.
    """
    said = []
    likelihoods = list(_logged(run, "eval_nll").values())
    if len(likelihoods) > 1:
        said.append(
            f"Held-out NLL, nats a token (lower is better): {likelihoods[0]:.3f} when first measured, "
            f"{likelihoods[-1]:.3f} at the end."
        )
    area = _area_at_the_end(run)
    if area is not None:
        said.append(
            f"The discriminator's AUC on unseen texts: {area:.2f} on average over the second half (0.5: it cannot tell "
            "real from generated, 1: it always can)."
        )
    axes = axes_of(run.curves)
    if axes is None or not {MLE, SEQGAN} <= set(run.curves):
        return said
    diversity, quality = axes
    names = {metric: name_of_metric(metric) for metric in axes}
    before, after = (_at_1(run.curves[stage]) for stage in (MLE, SEQGAN))
    said.append(
        f"Quality, {names[quality]} ({'lower' if quality.startswith('NLL') else 'higher'} is better): "
        f"{before[quality]:.3f} after maximum likelihood, {after[quality]:.3f} after SeqGAN."
    )
    temperature = temperature_where(run.curves[MLE], quality, after[quality])
    if temperature is None:
        said.append(f"No temperature that was measured gives the generator before the game this {names[quality]}.")
    else:
        rival = point_between(run.curves[MLE], temperature)[diversity]
        ahead = "SeqGAN" if rival > after[diversity] else "the rival"
        said.append(
            f"The rival: at a temperature of {temperature:.2f} the generator before the game has the same "
            f"{names[quality]}. There its {names[diversity]} (lower is more diverse) is {rival:.3f}, and SeqGAN's is "
            f"{after[diversity]:.3f}: {ahead} is ahead by {abs(rival - after[diversity]):.3f}."
        )
    for stage, curve in run.curves.items():
        control = stage.removeprefix(CONTROL)
        if control != stage:
            said.append(
                f"The control, the same game with the reward {control}: {names[quality]} {_at_1(curve)[quality]:.3f}, "
                f"{names[diversity]} {_at_1(curve)[diversity]:.3f}. What it gained, too, is not the discriminator's."
            )
    return [
        *said,
        "These are figures of one run. Another seed moves them, too: compare several before you believe one.",
    ]


def axes_of(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[str, str] | None:
    """
    Choose what generators are compared by.

    Args:
        curves (`Mapping`): For each generator's name its metrics over the temperature.

    Returns:
        `tuple[str, str]`, *optional*: the metrics of diversity and of quality that all curves have, of the longest
        n-grams.
    """
    common = set.intersection(*(set(point) for curve in curves.values() for point in curve)) if curves else set()
    if {"NLL_oracle", "NLL_test"} <= common:
        return "NLL_test", "NLL_oracle"
    orders = [order for order in (5, 4, 3, 2) if {f"bleu{order}", f"self_bleu{order}"} <= common]
    return (f"self_bleu{orders[0]}", f"bleu{orders[0]}") if orders else None


def _at_1(curve: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return next(point for point in curve if point["temperature"] == 1)


def checks_of(run: Run) -> dict[str, str | None]:
    """
    Look for what is known to go wrong, as far as a run has figures for it.

    Args:
        run (`Run`): Any.

    Returns:
        `dict`: by the names in `CHECKS` what strikes, in sentences, or `None`. What has no figures is missing.
    """
    found = {name: look(run) for name, look in CHECKS.items()}
    return {name: said or None for name, said in found.items() if said is not None}


def _collapse(run: Run) -> str | None:
    """Say since when, the empty string if not at all, `None` if nothing was measured; so do the next ones."""
    values = _logged(run, "entropy")
    when = _when({step: value < next(iter(values.values())) * COLLAPSED for step, value in values.items()})
    return when and (
        f"{when} the generator's entropy is under a tenth of what it was: it writes the same again and again. Lower "
        "learning_rate, or hold it by beta or mle_coef."
    )


def _always_right(run: Run) -> str | None:
    values = _logged(run, "discriminator/held_out_accuracy")
    when = _when({step: value >= ALWAYS_RIGHT for step, value in values.items()})
    return when and (
        f"{when} the discriminator is right on 99 % of unseen texts: look for what gives the samples away."
    )


def _memory(run: Run) -> str | None:
    area = _area_at_the_end(run)
    if area is None or area >= _INVERTED:
        return None if area is None else ""
    return (
        f"Over the second half of the run the discriminator's AUC on unseen texts is {area:.2f}, below 0.45: it has "
        "memorised its real texts. Try discriminator_data held_out."
    )


def _copies(run: Run) -> str | None:
    # Samples may be shown at a lower temperature, too.
    after = [row for stage, row in run.stages.items() if stage == SEQGAN or stage.startswith(SEQGAN_AT)]
    copied = max((row["copied"] for row in after if "copied" in row), default=None)
    real = run.stages.get(REAL_TEXTS, {}).get("copied", 0.0)
    if copied is None or copied <= real + _MEMORISED:
        return None if copied is None else ""
    return f"{copied:.0%} of the samples stand in the training texts word for word; of held-out texts {real:.0%} do."


def _forgotten(run: Run) -> str | None:
    values = list(_logged(run, "eval_nll").values())
    if len(values) < 2 or values[-1] <= values[0] + 0.1:
        return None if len(values) < 2 else ""
    return (
        f"Held-out texts became less likely, {values[0]:.3f} to {values[-1]:.3f} nats a token: what was gained in "
        "quality was paid for in diversity. Compare with a lower temperature of the model before the game."
    )


CHECKS: dict[str, Callable[[Run], str | None]] = {
    "a generator that collapses": _collapse,
    "a discriminator that is always right": _always_right,
    "a discriminator that knows its real texts by heart": _memory,
    "samples that are copies of training texts": _copies,
    "held-out texts that become less likely": _forgotten,
}


def _logged(run: Run, key: str) -> dict[int, float]:
    return {entry["step"]: entry[key] for entry in run.history if key in entry}


def _when(is_so: Mapping[int, bool]) -> str | None:
    """Say at which updates something is so."""
    steps = [step for step, value in is_so.items() if value]
    if not steps:
        return "" if is_so else None
    to_the_end = all(value for step, value in is_so.items() if step >= steps[0])
    if to_the_end:
        return f"From update {steps[0]} on"
    return f"At {len(steps)} of {len(is_so)} logs, first at update {steps[0]},"


def _area_at_the_end(run: Run) -> float | None:
    """Return the mean of the discriminator's AUC on unseen texts over the second half of a run, if it was logged."""
    areas = list(_logged(run, "discriminator/held_out_auc").values())
    half = areas[len(areas) // 2 :]
    return sum(half) / len(half) if half else None
