"""What people said in a blind test, beside what discriminators say of the same items. Needs scipy: the extra `judge`."""

import csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from transformers.utils import is_matplotlib_available

from .checkpoints import write_whole
from .plots import plot_verdicts
from .trial import Trial, load_trial
from .votes import VOTES_FILE, Vote, Votes, read_votes

_Z = 1.959963984540054  # the quantile 0.975 of the normal distribution


def judge_results(folder: str | Path, more: Iterable[str | Path] = ()) -> str:
    """
    Count what people said, keep it in the folder of the trial, and return it as a table.

    Args:
        folder (`str` or `Path`): Gets `results.json`, `votes.csv` and, with matplotlib, `judged_real.png`.
        more (`Iterable`): Files of CSV with votes to add first.

    Returns:
        `str`

    Raises:
        ValueError: If there is no trial, or no vote, or one on an item that is not the trial's.
        OSError: If a file cannot be read or written.
        ImportError: If scipy is not installed.
    """
    folder = Path(folder)
    trial = load_trial(folder)
    with Votes(folder / VOTES_FILE) as votes:
        for path in more:
            given = read_votes(Path(path).read_text(encoding="utf-8"))
            _require_items(trial, given)
            print(f"{path}: {votes.add(given)} of {len(given)} votes are new.")
        cast = votes.all()
    results = verdicts_of(trial, cast)
    write_whole(folder / "results.json", json.dumps(results, indent=1, ensure_ascii=False))
    write_whole(folder / "votes.csv", _votes_table(trial, cast))
    drawn = "(pip install 'seqgan_hf[plots]' to have them drawn)"
    if is_matplotlib_available():
        drawn = str(plot_verdicts(results["sources"], folder / "judged_real.png"))
    return f"{verdicts_table(results)}\n\nResults: {folder / 'results.json'}, {folder / 'votes.csv'}\nPicture: {drawn}"


def verdicts_of(trial: Trial, votes: Sequence[Vote]) -> dict[str, Any]:
    """
    Turn votes into figures.

    The paper (https://huggingface.co/papers/1609.05473) gives a p-value of its judges' scores and does not say of which
    test. Here are two of each model against the first: over judges, a paired t-test of the shares that each judged real;
    and over items, a t-test of the shares of judges who took each for real.

    Args:
        trial (`Trial`): With its sources.
        votes (`Sequence[Vote]`): At most one of a judge on an item.

    Returns:
        `dict`: `judges` and `votes`, how many; for each of `sources` its `votes`, how many were `judged_real`, their
        `share` with its 95 % Wilson interval from `low` to `high`, and the share that each of the `discriminators`
        takes for real; for each model but the first in `tests` the `difference` of its mean share to the baseline's
        with `p`, `over_judges` and `over_items`; and in `agreement`, for each discriminator, Spearman's rank
        correlation of its P(real) with the share of people, over items. What cannot be had of so few votes is `None`.

    Raises:
        ValueError: If there are no votes, or one on an item that is not the trial's.
        ImportError: If scipy is not installed.
    """
    if not votes:
        raise ValueError("Nobody has judged yet. Judge by `seqgan-hf judge`, or add votes by `--add_votes`.")
    _require_items(trial, votes)
    by_source: dict[str, list[bool]] = {source: [] for source in trial.sources}
    of_judges: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    of_items: dict[str, list[bool]] = defaultdict(list)
    for vote in votes:
        source = trial.items[vote.item].source
        by_source[source].append(vote.judged_real)
        of_judges[vote.judge][source].append(vote.judged_real)
        of_items[vote.item].append(vote.judged_real)
    item_shares = {id: fmean(said) for id, said in of_items.items()}
    return {
        "judges": len(of_judges),
        "votes": len(votes),
        "sources": {source: _share(said) | _of_discriminators(trial, source) for source, said in by_source.items()},
        "tests": {
            model: {
                "against": trial.models[0],
                "over_judges": _over_judges(of_judges.values(), model, trial.models[0]),
                "over_items": _over_items(trial, item_shares, model, trial.models[0]),
            }
            for model in trial.models[1:]
        },
        "agreement": {judge: _agreement(trial, item_shares, judge) for judge in _discriminators(trial)},
    }


def verdicts_table(results: Mapping[str, Any]) -> str:
    """
    Lay out what [`verdicts_of`] found for a terminal.

    Args:
        results (`Mapping`): From [`verdicts_of`].

    Returns:
        `str`
    """
    judges = list(results["agreement"])
    people = f"{results['judges']} judge{'s' * (results['judges'] > 1)}"
    width = max(len("source"), *map(len, results["sources"]))
    lines = [
        f"{results['votes']} votes of {people}: how many texts of each source were judged real.",
        "",
        f"{'source':{width}}  votes   real  share   95 % interval" + "".join(f"  D of {judge}" for judge in judges),
    ]
    for source, found in results["sources"].items():
        share = "    -" if found["share"] is None else f"{found['share']:5.3f}"
        interval = "-" if found["share"] is None else f"{found['low']:.3f} to {found['high']:.3f}"
        of_judges = (f"  {found['discriminators'][judge]:{len(judge) + 5}.3f}" for judge in judges)
        lines.append(
            f"{source:{width}}  {found['votes']:5d}  {found['judged_real']:5d}  {share}  {interval:>14}"
            + "".join(of_judges)
        )
    for model, test in results["tests"].items():
        lines.append("")
        for name, what in (("over_judges", "judges"), ("over_items", "items")):
            lines.append(f"{model} against {test['against']}, over {what}: {_in_words(test[name], what)}")
    for judge, found in results["agreement"].items():
        said = "too little to compare." if found is None else f"{found['spearman']:+.3f} (p = {found['p']:.3g})."
        lines += ["", f"Rank correlation of people and the discriminator of {judge}, over items: {said}"]
    return "\n".join(lines)


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """
    Return the 95 % interval of a share after Wilson (1927), which holds for few trials and for shares near 0 and 1, too.

    Args:
        successes (`int`): From 0 to `trials`.
        trials (`int`): At least 1.

    Returns:
        `tuple[float, float]`: in [0, 1].
    """
    share = successes / trials
    middle = share + _Z**2 / (2 * trials)
    half = _Z * math.sqrt(share * (1 - share) / trials + _Z**2 / (4 * trials**2))
    low, high = ((middle + sign * half) / (1 + _Z**2 / trials) for sign in (-1, 1))
    return max(low, 0.0), min(high, 1.0)


def _in_words(test: Mapping[str, float] | None, what: str) -> str:
    if test is None:
        return "no test, as there are too few of them, or all are alike."
    return f"{test['difference']:+.3f} judged real, p = {test['p']:.3g} (t-test, {test['count']} {what})."


def _share(said: Sequence[bool]) -> dict[str, Any]:
    low, high = wilson_interval(sum(said), len(said)) if said else (None, None)
    share = fmean(said) if said else None
    return {"votes": len(said), "judged_real": sum(said), "share": share, "low": low, "high": high}


def _discriminators(trial: Trial) -> list[str]:
    """Return whose discriminators have judged, in the order of the models."""
    return [model for model in trial.models if all(model in item.scores for item in trial.items.values())]


def _of_discriminators(trial: Trial, source: str) -> dict[str, dict[str, float]]:
    items = [item for item in trial.items.values() if item.source == source]
    return {
        "discriminators": {
            judge: fmean(item.scores[judge] > 0.5 for item in items) for judge in _discriminators(trial)
        }
    }


def _over_judges(judges: Iterable[Mapping[str, Sequence[bool]]], model: str, baseline: str) -> dict[str, float] | None:
    """Compare the shares that each judge took for real, of those who have judged both."""
    pairs = [(fmean(of[model]), fmean(of[baseline])) for of in judges if of[model] and of[baseline]]
    if len(pairs) < 2 or len({round(above - below, 12) for above, below in pairs}) < 2:
        return None
    above, below = zip(*pairs, strict=True)
    return _tested(_stats().ttest_rel(above, below), fmean(above) - fmean(below), len(pairs))


def _over_items(trial: Trial, shares: Mapping[str, float], model: str, baseline: str) -> dict[str, float] | None:
    """Compare the shares of judges who took an item for real."""
    above, below = (
        [share for id, share in shares.items() if trial.items[id].source == source] for source in (model, baseline)
    )
    if min(len(above), len(below)) < 2 or max(len(set(above)), len(set(below))) < 2:
        return None
    return _tested(_stats().ttest_ind(above, below), fmean(above) - fmean(below), len(above) + len(below))


def _tested(test: Any, difference: float, count: int) -> dict[str, float]:
    return {"difference": difference, "t": float(test.statistic), "p": float(test.pvalue), "count": count}


def _agreement(trial: Trial, shares: Mapping[str, float], judge: str) -> dict[str, float] | None:
    of_people = list(shares.values())
    of_judge = [trial.items[id].scores[judge] for id in shares]
    if min(len(set(of_people)), len(set(of_judge))) < 2 or len(of_people) < 3:
        return None
    found = _stats().spearmanr(of_judge, of_people)
    return {"spearman": float(found.statistic), "p": float(found.pvalue), "items": len(of_people)}


def _stats() -> Any:
    try:
        from scipy import stats
    except ImportError as error:
        raise ImportError("Tests of votes need the package scipy: pip install 'seqgan_hf[judge]'.") from error
    return stats


def _require_items(trial: Trial, votes: Iterable[Vote]) -> None:
    unknown = sum(vote.item not in trial.items for vote in votes)
    if unknown:
        raise ValueError(f"{unknown} votes are on items of another trial. Give the votes of this one.")


def _votes_table(trial: Trial, votes: Iterable[Vote]) -> str:
    """Write votes as CSV, each with the source of its item and what discriminators say of that."""
    judges = _discriminators(trial)
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow([*Vote._fields, "source", *(f"D of {judge}" for judge in judges)])
    for vote in votes:
        item = trial.items[vote.item]
        writer.writerow([*vote.cells(), item.source, *(f"{item.scores[judge]:.6f}" for judge in judges)])
    return written.getvalue()
