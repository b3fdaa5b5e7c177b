"""What studies of many runs share: each run a process of its own, kept at once; and the statistics of their tables."""

import fcntl
import json
import math
import os
import signal
import statistics
import subprocess
import time
from argparse import REMAINDER, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from measuring import COMMIT, cpu_model, versions
from scipy import stats
from scipy.interpolate import CubicSpline

from seqgan_hf.checkpoints import write_whole

_ROUNDING = 1e-9  # of a spline at one of its own points
_NOT_SAID = "not said"  # a setting that a run's version did not have, so that nobody knows what it did
_processes: set[subprocess.Popen[bytes]] = set()

Run = tuple[str, int]
"""The name of a run, and its seed."""


def study_parser(description: str | None, work: Path, results: Path, page: Path) -> ArgumentParser:
    """
    Return a parser with the flags that every study has.

    Args:
        description (`str`, *optional*): The script's docstring.
        work, results, page (`Path`): The defaults of the flags of these names.
    """
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--workers", type=int, default=2, help="Runs at a time, one thread each.")
    parser.add_argument("--work", type=Path, default=work, help="Checkpoints, logs.")
    parser.add_argument("--results", type=Path, default=results, help="The small files of finished runs.")
    parser.add_argument("--page", type=Path, default=page, help="The page to write into.")
    parser.add_argument("--page_only", action="store_true", help="Make no run.")
    parser.add_argument("--extra", nargs=REMAINDER, default=[], help="Last: flags for every run, for a small trial.")
    return parser


def run_folder(work: Path, run: Run) -> Path:
    """Return where a run has its checkpoints and its log, under `--work`."""
    return work / run[0] / f"seed_{run[1]}"


def run_recipe(name: str, command: Sequence[str], folder: Path, interrupted: bool) -> dict[str, Any]:
    """
    Run a recipe in a process of its own, with one thread.

    Args:
        name (`str`): Of the run, as it is printed.
        command (`Sequence[str]`): The whole command line.
        folder (`Path`): Its `output_dir`, which exists; `log.txt` there gets what it prints.
        interrupted (`bool`): Whether a part of it was run before, so that its time is not known.

    Returns:
        `dict`: what it left as `metrics.json`, and `wall_seconds`.

    Raises:
        RuntimeError: If it is being run already.
        subprocess.CalledProcessError: If it failed.
    """
    began = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    with open(folder / "lock", "a") as lock, open(folder / "log.txt", "a", encoding="utf-8") as log:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RuntimeError(
                f"{name} is being run by another process, which holds {folder / 'lock'}. Wait for it, or end it."
            ) from error
        print(f"{time.strftime('%H:%M')} {name}: begins; log in {folder / 'log.txt'}", flush=True)
        # The lock is the recipe's, too: it outlives a study that is killed.
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, pass_fds=[lock.fileno()]
        )
        _processes.add(process)
        code = process.wait()
        _processes.discard(process)
    if code:
        raise subprocess.CalledProcessError(code, list(command))
    report: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return report | {"wall_seconds": None if interrupted else time.perf_counter() - began}


def keep(report: Mapping[str, Any], names: Sequence[str], path: Path) -> dict[str, Any]:
    """
    Keep of a run's report what a study needs, in a small file.

    Args:
        report (`Mapping`): From [`run_recipe`].
        names (`Sequence[str]`): The parts to keep, where it has them; its `wall_seconds` are kept, too.
        path (`Path`): The file to write, floats rounded to six digits.

    Returns:
        `dict`: these parts, with the commit, the processor and the versions.
    """
    kept = {name: report[name] for name in (*names, "wall_seconds") if name in report}
    kept |= {"commit": COMMIT, "cpu": cpu_model(), "versions": versions()}
    write_whole(path, json.dumps(rounded(kept), indent=1, ensure_ascii=False) + "\n")
    return kept


def run_all(runs: Sequence[Run], make: Callable[[Run], None], workers: int, work: Path) -> list[str]:
    """
    Make runs, some at a time. Ctrl-C, which their recipes get, too, and SIGTERM end those that have begun, at a
    checkpoint where they can, and begin no other.

    Args:
        runs (`Sequence[Run]`): Which.
        make (`Callable`): Makes one.
        workers (`int`): At a time.
        work (`Path`): Where their folders are.

    Returns:
        `list[str]`: a sentence for each whose recipe failed. Other errors are raised, and no further run is begun.
    """
    failures = []
    pool = ThreadPoolExecutor(workers)
    before = signal.signal(signal.SIGTERM, _pass_on)
    try:
        jobs = {run: pool.submit(make, run) for run in runs}
        for run, job in jobs.items():
            error = job.exception()
            if isinstance(error, subprocess.CalledProcessError):
                failures.append(f"{run[0]}, seed {run[1]}, failed: see {run_folder(work, run) / 'log.txt'}.")
            elif error is not None:
                raise error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        signal.signal(signal.SIGTERM, before)
    return failures


def _pass_on(number: int, frame: FrameType | None) -> None:
    for process in list(_processes):
        process.send_signal(number)
    raise SystemExit(128 + number)


def rounded(value: Any) -> Any:
    """Round all floats inside a value to six significant digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list) else value


def mean_and_deviation(values: Sequence[float], digits: int = 3) -> str:
    """Write the mean of some values and their standard deviation, if there are several."""
    if not values:
        return "-"
    deviation = f" +- {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{deviation}"


def paired_p(differences: Sequence[float]) -> float:
    """
    Two-sided p of Student's paired t-test, as in the paper.

    Args:
        differences (`Sequence[float]`): One a seed, at least two.

    Returns:
        `float` in [0, 1]; NaN for fewer than two.
    """
    if len(differences) < 2:
        return math.nan
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def with_interval(differences: Sequence[float]) -> str:
    """
    Write the mean of some differences with its 95 % confidence interval: Student's, so that of a paired t-test.

    Args:
        differences (`Sequence[float]`): One a seed; of fewer than two the mean alone is written.

    Returns:
        `str`, such as `0.031 [-0.102, 0.164]`.
    """
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return f"{mean:.3f}"
    low, high = stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def mean_curve(curves: Sequence[Sequence[Mapping[str, float]]]) -> list[dict[str, float]]:
    """Average curves over seeds, temperature by temperature; what one seed lacks is left out."""
    return [
        {
            key: statistics.fmean(point[key] for point in points)
            for key in points[0]
            if all(key in point for point in points)
        }
        for points in zip(*curves, strict=True)
    ]


def quality_at(curve: Sequence[Mapping[str, float]], nll_test: float) -> float:
    """
    Read a curve's NLL_oracle off at some NLL_test: what the generator reaches at the temperature where it has this.

    Between the temperatures that were measured, both figures follow cubic splines. NLL_test falls with the temperature
    down to its lowest, which may lie between two of them, and rises again; temperatures above that cost both figures,
    and are left out.

    Args:
        curve (`Sequence[Mapping]`): From `evaluation.oracle_curve`, of at least two temperatures.
        nll_test (`float`): Nats per token.

    Returns:
        `float`: nats per token.

    Raises:
        ValueError: If `nll_test` is below what any temperature reaches, or above where the curve ends.
    """
    points = sorted(curve, key=lambda point: point["temperature"])
    temperatures = [point["temperature"] for point in points]
    diversity, quality = (
        CubicSpline(temperatures, [point[name] for point in points]) for name in ("NLL_test", "NLL_oracle")
    )
    flat = diversity.derivative().roots(extrapolate=False)
    best = min([*temperatures, *flat[np.isfinite(flat)]], key=diversity)
    if nll_test < diversity(best) - _ROUNDING:
        raise ValueError(
            f"The lowest NLL_test of the curve is {diversity(best):.4f}; {nll_test:.4f} lies below, and no temperature "
            "reaches it. Compare at a higher one."
        )
    if nll_test > diversity(temperatures[0]) + _ROUNDING:
        raise ValueError(
            f"The curve ends at an NLL_test of {diversity(temperatures[0]):.4f}; {nll_test:.4f} lies beyond. Measure "
            "lower temperatures, too."
        )
    below, above = temperatures[0], best
    for _ in range(60):  # NLL_test falls from one to the other
        middle = (below + above) / 2
        below, above = (middle, above) if diversity(middle) > nll_test else (below, middle)
    return float(quality(above))


def with_p(values: Sequence[float], digits: int = 3) -> str:
    """Write the mean of some differences with the p of a paired t-test, where it has one."""
    p = paired_p(values)
    return mean_and_deviation(values, digits) + ("" if math.isnan(p) else f" (p = {p:.1g})")


def check_alike(name: str, runs: Mapping[int, Mapping[str, Any]]) -> None:
    """
    Check that the runs of some seeds differ in nothing else, so that a mean over them means something.

    Args:
        name (`str`): What they are called.
        runs (`Mapping`): By seed, each with its `settings`, and on real text with the digest of its `texts`.

    Raises:
        ValueError: If a setting differs or only one of two has it, or the texts do.
    """
    (first, *others) = runs
    for other in others:
        if runs[first].get("texts") != runs[other].get("texts"):
            raise ValueError(
                f"The seeds {first} and {other} of {name} were run on different texts. Remove the file of one and run it "
                "again."
            )
        one, two = runs[first]["settings"], runs[other]["settings"]
        keys = sorted((one.keys() | two.keys()) - {"seed", "seeds"})
        values = {key: (one.get(key, _NOT_SAID), two.get(key, _NOT_SAID)) for key in keys}
        if what := ", ".join(f"{key} {a!r} and {b!r}" for key, (a, b) in values.items() if a != b):
            raise ValueError(
                f"The seeds {first} and {other} of {name} were run with different settings: {what}. Remove the file of "
                "one and run it again."
            )
