"""
Write the tables of docs/performance.md from saved results; the text around them is written by hand.

    python benchmarks/performance.py benchmarks/results/*.json

A table NAME goes between the lines `<!-- begin NAME -->` and `<!-- end NAME -->`, which must be there.
"""

import json
import math
import re
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

Result = Mapping[str, Any]

_FIGURES = {
    "generator_update": "one generator update",
    "rollouts": "of which completions and rollouts",
    "scoring": "of which scoring",
    "gradient_step": "of which loss, backward pass and optimizer",
    "discriminator_epoch": "D epoch, 10,000 + 10,000 texts",
    "likelihood_epoch": "MLE epoch, 10,000 texts",
    "samples": "10,000 samples",
    "scoring_alone": "scoring alone, float32",
    "scoring_alone_bf16": "scoring alone, bfloat16",
    "discriminator_epoch_bf16": "D epoch, bfloat16",
}
_SIZES = {"num_rollouts": "N", "batch_size": "B", "length": "T", "vocab_size": "V"}
_NONE = "-"


def three_digits(value: float) -> str:
    """
    Write a number with three significant digits, without exponents; thousands are parted by commas.

    Args:
        value (`float`): Finite.
    """
    rounded = float(f"{value:.2e}")
    decimals = 2 if rounded == 0 else max(2 - math.floor(math.log10(abs(rounded))), 0)
    return f"{rounded:,.{decimals}f}"


def with_range(values: Mapping[str, float]) -> str:
    """Write a median with its range."""
    median, low, high = (three_digits(values[key]) for key in ("median", "min", "max"))
    return f"{median} ({low} to {high})"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """
    Lay out a Markdown table, columns of numbers to the right.

    Args:
        columns (`Sequence[str]`): The header.
        rows (`Sequence[Sequence[str]]`): As long as it.

    Returns:
        `str`, without a line break at the end.
    """

    def is_numeric(index: int) -> bool:
        return all(re.match(r"[-+]?\d|$|-$", row[index]) for row in rows)

    rules = ["---:" if is_numeric(index) else "---" for index in range(len(columns))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, rules, *rows))


# ---- The tables ----------------------------------------------------------------------------------------------------


def rollouts_table(results: Sequence[Result]) -> str:
    """Compare the methods of rollouts.py: a row for each setting and method."""
    rows = []
    for result in results:
        for name, method in result["results"]["methods"].items():
            rows.append(
                [
                    _setting_of(result), name, with_range(method["seconds"]),
                    three_digits(method["tokens_per_second"]), three_digits(method["times_lockstep"]["median"]),
                    three_digits(method["times_floor"]),
                ]
            )  # fmt: skip
    columns = ["setting", "method", "seconds", "tokens a second", "x lockstep", "x floor"]
    return markdown_table(columns, rows)


def forward_passes_table(results: Sequence[Result]) -> str:
    """Show how often lockstep calls the generator: a row for each setting of rollouts.py."""
    rows = []
    for result in results:
        settings, passes = result["settings"], result["results"]["forward_passes"]
        numbers = (settings["length"], passes["rollout_batch_size"], passes["passes"], passes["passes_in_one_chunk"])
        rows.append([_setting_of(result), *(f"{number:,}" for number in numbers)])
    return markdown_table(["setting", "T", "`rollout_batch_size`", "forward passes", "in one chunk"], rows)


def round_table(results: Sequence[Result]) -> str:
    """Set the figures of round.py beside bars, floors and the other implementations."""
    figures = _only(results)["results"]["figures"]
    peers = list(dict.fromkeys(peer for figure in figures.values() for peer in figure.get("peers", {})))
    rows = []
    for name, figure in figures.items():
        bar, times_floor = figure.get("bar"), figure.get("times_floor")
        floor = figure.get("floor", {}).get("seconds")
        adjusted = (figure["on_reference_machine"][yardstick] for yardstick in ("by_lean_loop", "by_products"))
        numbers = (*adjusted, bar, floor, times_floor)
        compared = (figure.get("peers", {}).get(peer) for peer in peers)
        cells = (_NONE if number is None else three_digits(number) for number in (*numbers, *compared))
        rows.append([_FIGURES.get(name, name), with_range(figure["seconds"]), *cells])
    columns = ["CPU seconds", "here", "reference, by loop", "by products", "bar", "floor here", "x floor", *peers]
    return markdown_table(columns, rows)


def memory_table(results: Sequence[Result]) -> str:
    """Show the memory of each point of memory.py, and the growth of each sweep."""
    rows = []
    for name, letter in (("num_rollouts", "N"), ("batch_size", "B")):
        sweep = _only(results)["results"][name]
        for index, point in enumerate(sweep["points"]):
            numbers = (point[f"{what}_megabytes"]["median"] for what in ("before", "growth", "peak"))
            is_last = index == len(sweep["points"]) - 1
            growth = f"{100 * sweep['relative_growth']:+.1f} %" if is_last else ""
            rows.append([f"{letter} = {point[name]}", *map(three_digits, numbers), growth])
    columns = ["", "MB before", "added by rollouts", "peak", "peak, last against first"]
    return markdown_table(columns, rows)


def growth_table(results: Sequence[Result]) -> str:
    """Show the exponents of growth.py."""
    rows = []
    for sweep in _only(results)["results"].values():
        first, last = sweep["points"][0], sweep["points"][-1]
        letter = _SIZES[sweep["field"]]
        name = f"{letter}, stride {sweep['stride']}" if letter == "T" else letter
        seconds = f"{three_digits(first['seconds']['median'])} to {three_digits(last['seconds']['median'])}"
        exponents = (three_digits(sweep[key]) for key in ("exponent", "theory_exponent"))
        rows.append([name, f"{first['size']:,} to {last['size']:,}", seconds, *exponents])
    return markdown_table(["what grows", "from, to", "CPU seconds", "exponent", "theory"], rows)


def machine_table(results: Sequence[Result]) -> str:
    """Say what each result was measured on, and how fast that was."""
    rows = []
    for result in results:
        rates = result["results"].get("hardware", {})
        speeds = (rates.get(name) for name in ("multiply large", "copy"))
        versions = result["versions"]
        factors = (result["results"].get(f"{name}_factor") for name in ("machine", "product"))
        rows.append(
            [
                ", ".join([result["benchmark"], *([_setting_of(result)] if "setting" in result["settings"] else [])]),
                result["settings"].get("device_name", result["cpu"]),
                *(_NONE if speed is None else with_range(speed) for speed in speeds),
                *(_NONE if factor is None else three_digits(factor) for factor in factors),
                versions["torch"], versions["transformers"], f"`{result['commit']}`",
            ]
        )  # fmt: skip
    columns = [
        "result", "device", "product, GFLOP/s", "copy, GB/s", "time of the lean loop, reference = 1", "of products",
        "torch", "transformers", "commit",
    ]  # fmt: skip
    return markdown_table(columns, rows)


def _setting_of(result: Result) -> str:
    settings = result["settings"]
    where = (
        ""
        if (settings["device"], settings["dtype"]) == ("cpu", "float32")
        else f", {settings['device']} {settings['dtype']}"
    )
    return f"{settings['setting']}{where}"


def _only(results: Sequence[Result]) -> Result:
    if len(results) > 1:
        raise ValueError(f"There are {len(results)} results of {results[0]['benchmark']}.py; pass the one to show.")
    return results[0]


# Table name -> the script whose results it shows (all scripts: "") and how.
_TABLES: dict[str, tuple[str, Callable[[Sequence[Result]], str]]] = {
    "rollouts": ("rollouts", rollouts_table),
    "forward_passes": ("rollouts", forward_passes_table),
    "round": ("round", round_table),
    "memory": ("memory", memory_table),
    "growth": ("growth", growth_table),
    "machine": ("", machine_table),
}


def render_tables(results: Sequence[Result]) -> dict[str, str]:
    """
    Render every table that there are results for.

    Args:
        results (`Sequence[Mapping]`): What the scripts saved.

    Returns:
        `dict[str, str]`: Markdown by the table's name.

    Raises:
        ValueError: If two results compete for one table.
    """
    tables = {}
    for name, (benchmark, render) in _TABLES.items():
        shown = [result for result in results if benchmark in ("", result["benchmark"])]
        if shown:
            tables[name] = render(shown)
    return tables


# ---- The page ------------------------------------------------------------------------------------------------------


def insert_tables(page: str, tables: Mapping[str, str]) -> str:
    """
    Put tables between their markers; all else of a page stays as it is.

    Args:
        page (`str`): Its text.
        tables (`Mapping[str, str]`): Markdown by name.

    Returns:
        `str`: the new text.

    Raises:
        ValueError: If a table has not exactly one pair of markers.
    """
    for name, table in tables.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        for marker in (begin, end):
            if page.count(marker) != 1:
                raise ValueError(
                    f"The page must have the line `{marker}` once, and has it {page.count(marker)} times: the table goes "
                    f"between `{begin}` and `{end}`."
                )
        before, _, rest = page.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"`{end}` stands before `{begin}` in the page: swap the two lines.")
        page = f"{before}{begin}\n\n{table}\n\n{end}{after}"
    return page


def read_results(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """
    Read what the scripts saved.

    Args:
        paths (`Sequence[Path]`): JSON files.

    Raises:
        ValueError: If there are none, or one is not such a file.
    """
    if not paths:
        raise ValueError("There are no results: run the benchmarks with `--save benchmarks/results/NAME.json` first.")
    results = []
    for path in paths:
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as the result of a benchmark: {error}.") from error
        if not isinstance(result, dict) or not {"benchmark", "settings", "results"} <= set(result):
            raise ValueError(f"{path} is not the result of a benchmark: pass what `--save` wrote.")
        results.append(result)
    return results


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("results", type=Path, nargs="*", help="Saved results; by default all of benchmarks/results.")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "performance.md", help="The page to write into.")
    parser.add_argument("--tables", nargs="+", choices=list(_TABLES), help="Write these alone; by default all.")
    args = parser.parse_args()
    try:
        tables = render_tables(read_results(args.results or sorted((ROOT / "benchmarks" / "results").glob("*.json"))))
        tables = {name: table for name, table in tables.items() if name in (args.tables or tables)}
        if not args.page.is_file():
            raise ValueError(f"There is no page {args.page}: write it first, with a pair of markers for each table.")
        args.page.write_text(insert_tables(args.page.read_text(encoding="utf-8"), tables), encoding="utf-8")
    except ValueError as error:
        sys.exit(str(error))
    print(json.dumps({"benchmark": "performance", "page": args.page.name, "tables": list(tables)}))


if __name__ == "__main__":
    main()
