"""What the benchmarks share: interleaved repeats, clocks, memory, the speed of the hardware, and the result as JSON."""

import contextlib
import gc
import importlib.metadata
import json
import platform
import statistics
import subprocess
import sys
import time
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

ROOT = Path(__file__).resolve().parent.parent
# One task of the hardware takes about 0.2 s on a core of 90 GFLOP/s and 10 GB/s.
_LARGE_SIDE = 2048
_BLOCK_OPERATIONS = 8e9
_COPIED_BYTES = 256 * 1024**2
_COPIES = 4

Clock = Callable[[], float]
Shape = tuple[int, int, int]


@dataclass
class Measured:
    """
    What the repeats of one task gave.

    Args:
        seconds (`list[float]`): Of each repeat.
        values (`list`): What each repeat returned.
    """

    seconds: list[float] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)


class _HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """Shows defaults, and leaves a description its lines."""


def make_parser(description: str | None, repeats: int = 3) -> ArgumentParser:
    """
    Return a parser with the flags that every benchmark has.

    Args:
        description (`str`, *optional*): The script's docstring.
        repeats (`int`): The default of `--repeats`.
    """
    parser = ArgumentParser(description=description, formatter_class=_HelpFormatter, allow_abbrev=False)
    parser.add_argument("--repeats", type=int, default=repeats, help="Rounds of the interleaved measurement.")
    parser.add_argument("--save", type=Path, help="Also write the result to this file, indented.")
    return parser


def progress(text: str) -> None:
    """Tell a person on stderr how far the benchmark is."""
    print(text, file=sys.stderr, flush=True)


def clock_of(device: str) -> Clock:
    """
    Return the clock that is honest on a device: processor seconds of this process on the CPU, which other processes of
    a shared machine do not lengthen; elsewhere wall seconds once the device has finished.

    Args:
        device (`str`): `cpu` or `cuda`.
    """
    if device == "cpu":
        return time.process_time

    def wall() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return wall


def interleave(
    tasks: Mapping[str, Callable[[], Any]],
    repeats: int,
    clock: Clock = time.process_time,
    digest: Callable[[str, Any], Any] | None = None,
) -> dict[str, Measured]:
    """
    Run tasks in turns, A B C A B C ..., so that a machine that slows down slows all of them.

    What the tasks print goes to stderr: stdout carries the result alone.

    Args:
        tasks (`Mapping[str, Callable]`): By name; each is called without arguments.
        repeats (`int`): Rounds, at least 1.
        clock (`Callable`): Gives the time in seconds.
        digest (`Callable`, *optional*): Takes a task's name and what it returned, and returns what is kept of it. Its
            time does not count.

    Returns:
        `dict[str, Measured]`

    Raises:
        ValueError: If `repeats` is below 1.
    """
    if repeats < 1:
        raise ValueError(f"`repeats` must be at least 1, got {repeats}.")
    measured = {name: Measured() for name in tasks}
    for turn in range(repeats):
        gc.collect()  # what was left behind is nobody's account
        for name, task in tasks.items():
            with contextlib.redirect_stdout(sys.stderr):
                start = clock()
                value = task()
                seconds = clock() - start
            measured[name].seconds.append(seconds)
            measured[name].values.append(value if digest is None else digest(name, value))
            progress(f"repeat {turn + 1}/{repeats}  {name}: {seconds:.3g} s")
    return measured


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return `median`, `min` and `max`."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, float]:
    """
    Summarise the ratios of two interleaved series, each taken within one repeat.

    Args:
        numerators, denominators (`Sequence[float]`): One value a repeat.

    Returns:
        `dict`: `median`, `min` and `max`.
    """
    return summary([above / below for above, below in zip(numerators, denominators, strict=True)])


# ---- The hardware --------------------------------------------------------------------------------------------------


def hardware_tasks(
    blocks: Mapping[str, Shape], device: str = "cpu", dtype: torch.dtype = torch.float32
) -> dict[str, Callable[[], float]]:
    """
    Return tasks for [`interleave`] that show how fast the machine is right now: each returns the work it did.

    Args:
        blocks (`Mapping[str, tuple]`): The products that matter by name, as (rows, inner, columns). One large square
            product is always there.
        device (`str`): Where.
        dtype (`torch.dtype`): Of the products.

    Returns:
        `dict`: `multiply <name>` returns floating-point operations, `copy` the bytes that were read and written.
    """

    def multiply(shape: Shape) -> Callable[[], float]:
        rows, inner, columns = shape
        left = torch.rand(rows, inner, device=device, dtype=dtype)
        right = torch.rand(inner, columns, device=device, dtype=dtype)
        out = torch.empty(rows, columns, device=device, dtype=dtype)
        operations = 2.0 * rows * inner * columns
        count = max(round(_BLOCK_OPERATIONS / operations), 1)

        def task() -> float:
            for _ in range(count):
                torch.mm(left, right, out=out)
            return operations * count

        torch.mm(left[:8], right[:, :8])  # the first product of a process loads the kernels
        return task

    source = torch.ones(_COPIED_BYTES // 4, device=device)
    target = torch.ones_like(source)  # written here: the system hands out pages when they are first touched

    def copy() -> float:
        for _ in range(_COPIES):
            target.copy_(source)
        return 2.0 * _COPIES * _COPIED_BYTES

    shapes = {"large": (_LARGE_SIDE, _LARGE_SIDE, _LARGE_SIDE), **blocks}
    return {**{f"multiply {name}": multiply(shape) for name, shape in shapes.items()}, "copy": copy}


def hardware_rates(measured: Mapping[str, Measured]) -> dict[str, dict[str, float]]:
    """
    Turn what [`hardware_tasks`] gave into rates.

    Args:
        measured (`Mapping[str, Measured]`): With other tasks among them or not.

    Returns:
        `dict`: for each `multiply <name>` the GFLOP/s, for `copy` the GB/s, as `median`, `min` and `max`.
    """
    return {
        name: summary([work / seconds / 1e9 for work, seconds in zip(task.values, task.seconds, strict=True)])
        for name, task in measured.items()
        if name == "copy" or name.startswith("multiply ")
    }


def floor_of(operations: float, moved_bytes: float, rates: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """
    Return what a piece of work takes if nothing but its products and its passes over memory cost time.

    The products run at the rate of the large one. The passes are those that wait for the products, such as an
    optimizer's over all weights, so that their time adds up.

    Args:
        operations (`float`): Floating-point operations in matrix products.
        moved_bytes (`float`): Read and written.
        rates (`Mapping`): From [`hardware_rates`].

    Returns:
        `dict`: `gflop`, `gbyte` and `seconds`.
    """
    gflop, gbyte = operations / 1e9, moved_bytes / 1e9
    seconds = gflop / rates["multiply large"]["median"] + gbyte / rates["copy"]["median"]
    return {"gflop": gflop, "gbyte": gbyte, "seconds": seconds}


# ---- Memory --------------------------------------------------------------------------------------------------------


def resident_bytes() -> int:
    """Return what this process holds in memory now."""
    return _status("VmRSS")


def peak_resident_bytes() -> int:
    """Return the most it held, since its start or since [`reset_peak`]."""
    return _status("VmHWM")


def reset_peak() -> bool:
    """Let [`peak_resident_bytes`] count from now on; return whether the system permits that."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _status(name: str) -> int:
    status = Path("/proc/self/status")
    if not status.is_file():
        raise RuntimeError(f"Memory is read from {status}, which this system does not have. Measure it on Linux.")
    fields = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
    return int(fields[name].split()[0]) * 1024


# ---- The result ----------------------------------------------------------------------------------------------------


def finish(benchmark: str, args: Namespace, settings: Mapping[str, Any], results: Mapping[str, Any]) -> None:
    """
    Print the result as one line of JSON, the last on stdout, and save it where `--save` says.

    Args:
        benchmark (`str`): The script's name.
        args (`Namespace`): Of [`make_parser`].
        settings (`Mapping`): What was measured.
        results (`Mapping`): What came out.
    """
    result = {
        "benchmark": benchmark,
        "settings": {**settings, "repeats": args.repeats, "threads": torch.get_num_threads()},
        "results": results,
        "versions": versions(),
        "cpu": cpu_model(),
        "commit": COMMIT,
    }
    if args.save is not None:
        args.save.parent.mkdir(parents=True, exist_ok=True)
        args.save.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result), flush=True)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide the speed."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "seqgan_hf": importlib.metadata.version("seqgan_hf"),
    }


def cpu_model() -> str:
    """Return the processor's name, with its instruction set for vectors, which decides the rate of products."""
    return f"{_cpu_name()}, {torch.backends.cpu.get_cpu_capability()}"


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def git_commit() -> str:
    """
    Return the short hash of the commit that was measured; `unknown` outside of a repository.

    `+dirty` is added if the package or the benchmarks differ from it. Results and pictures may: they are written here.
    """

    def git(*arguments: str) -> str:
        # A mere look must not refresh the index, which somebody else may be writing.
        command = ["git", "--no-optional-locks", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changes = git("status", "--porcelain", "--untracked-files=no", "--", "seqgan_hf", "benchmarks/*.py")
        return git("rev-parse", "--short", "HEAD") + ("+dirty" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


COMMIT = git_commit()  # read as a script begins: the tree may change while it measures
