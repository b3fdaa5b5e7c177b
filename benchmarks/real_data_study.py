"""
The recipes on real text as a study: every task over seeds, with controls, then docs/results/real_data.md.

    python benchmarks/real_data_study.py --data FOLDER                        # all that is missing
    python benchmarks/real_data_study.py --data FOLDER --only poems --seeds 1
    python benchmarks/real_data_study.py --page_only                          # tables and pictures from what is there

Another preset has a page of its own:

    python benchmarks/real_data_study.py --data FOLDER --preset modern --results docs/results/real_data_modern \\
        --page docs/results/real_data_modern.md --extra --controls shuffled

FOLDER holds `obama`, `quatrains5`, `nottingham/len32_0.4s` and `image_coco`, each with a text a line in `train.txt`,
`test.txt` and, but for the last, `validation.txt`; and `obama_presidential_only`, the speeches that may be quoted.
Stopped and called again, it goes on: a finished run leaves docs/results/real_data/<task>_<seed>.json at once and is not
repeated, an interrupted one resumes from its last checkpoint in `--work`.
"""

import json
import os
import resource
import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from performance import insert_tables, markdown_table
from studies import (
    Run,
    check_alike,
    keep,
    mean_and_deviation,
    mean_curve,
    run_all,
    run_folder,
    run_recipe,
    study_parser,
    with_p,
)

from seqgan_hf.checkpoints import write_whole
from seqgan_hf.completions import one_line
from seqgan_hf.evaluation import words
from seqgan_hf.melodies import is_melody
from seqgan_hf.plots import plot_piano_rolls, plot_quality_and_diversity
from seqgan_hf.stages import CONTROL, MATCHED_TEMPERATURE, MLE, SEQGAN
from seqgan_hf.text_measures import likeness, nearest_texts

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "real_data"
PAGE = ROOT / "docs" / "results" / "real_data.md"
CONTROLS = ("constant", "shuffled", "random")
KEPT = (
    "stages",
    "curves",
    "first_stage",
    "language_models",
    "discriminator",
    "cpu_seconds",
    "samples",
    "texts",
    "settings",
)
NUM_SEEDS = 3
TOO_LIKE = 0.8  # a sample that shares so much with a training text quotes it
LEFT_OUT = "(left out)"
NUM_READ = 28  # words of a speech: about what its first 32 tokens hold


@dataclass(frozen=True)
class Task:
    """
    One recipe on its data.

    Args:
        recipe (`str`): Its file in recipes/, without the ending.
        data (`str`): Its folder in `--data`.
        order (`int`): The BLEU that the paper compares.
        also (`tuple[str, ...]`): What else the paper compares.
        quotes (`str`): What of `data` may be quoted on the page, beside the samples: `all`, or the folder in `--data`
            with those of its texts that may. Empty: nothing.
        melodies (`bool`): Its texts are melodies, which are drawn, too.
    """

    recipe: str
    data: str
    order: int
    also: tuple[str, ...] = ()
    quotes: str = ""
    melodies: bool = False

    @property
    def folders(self) -> set[str]:
        """What must be in `--data`."""
        return {self.data, self.quotes} - {"", "all"}

    @property
    def quality(self) -> str:
        """The metric of quality; higher is better."""
        return f"bleu{self.order}"

    @property
    def others(self) -> tuple[str, ...]:
        """What a gain in quality must not cost: the first is better low, the others near those of real texts."""
        return f"self_bleu{self.order}", "distinct2", f"novelty{self.order}"


TASKS = {
    "poems": Task("chinese_poems", "quatrains5", 2, quotes="all"),  # of the Tang dynasty
    # In the public domain are those of the president; the other sources state no terms.
    "speeches": Task("obama_speech", "obama", 3, ("bleu4",), quotes="obama_presidential_only"),
    # The data are under the GPL.
    "music": Task("nottingham_music", "nottingham/len32_0.4s", 4, ("mse_nearest",), melodies=True),
    "captions": Task("image_coco", "image_coco", 4, quotes="all"),  # of MS COCO, CC BY 4.0
}


# ---- Running -------------------------------------------------------------------------------------------------------


def missing(only: Sequence[str], seeds: int, results: Path) -> list[Run]:
    """List the runs that are yet to be made, all tasks of a seed before the next seed."""
    wanted = [(name, seed) for seed in range(1, seeds + 1) for name in TASKS if not only or name in only]
    return [(name, seed) for name, seed in wanted if not (results / f"{name}_{seed}.json").is_file()]


def command(run: Run, folder: Path, data: Path, preset: str, extra: Sequence[str] = ()) -> list[str]:
    """
    Return the command line of a run.

    Args:
        run (`tuple`): The task and the seed.
        folder (`Path`): Its `output_dir`.
        data (`Path`): Where the data sets are.
        preset (`str`): Of the recipe.
        extra (`Sequence[str]`): Flags over all others.
    """
    task = TASKS[run[0]]
    recipe = ROOT / "recipes" / f"{task.recipe}.py"
    settings = ["--preset", preset, "--dataset_name", str(data / task.data), "--controls", *CONTROLS]
    settings += ["--seed", str(run[1]), "--output_dir", str(folder), "--resume_from_checkpoint", "true"]
    settings += ["--disable_tqdm", "true", "--log_completions", "false"]
    return [sys.executable, str(recipe), *settings, *extra]


def make(run: Run, args: Namespace) -> None:
    """Make one run, and keep its small file."""
    name, seed = run
    folder = run_folder(args.work, run)
    interrupted = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    arguments = command(run, folder, args.data, args.preset, args.extra)
    report = run_recipe(f"{name}, seed {seed}", arguments, folder, interrupted)
    for curve in report["curves"].values():
        for point in curve:
            del point["samples"]
    pairs = json.loads((folder / "nearest.json").read_text(encoding="utf-8"))
    report["samples"] = quotable(pairs, TASKS[name].quotes, args.data)
    kept = keep(report, KEPT, args.results / f"{name}_{seed}.json")
    quality = {stage: round(metrics[TASKS[name].quality], 3) for stage, metrics in kept["stages"].items()}
    print(f"{time.strftime('%H:%M')} {name}, seed {seed}: {TASKS[name].quality} {quality}", flush=True)


def quotable(pairs: Sequence[Mapping[str, str]], quotes: str, data: Path) -> list[dict[str, Any]]:
    """
    Say how near to a training text each sample is, and quote such a text where that is allowed.

    Args:
        pairs (`Sequence[Mapping]`): A run's `nearest.json`: `sample`, and of all training texts the `nearest`.
        quotes (`str`): As in [`Task`].
        data (`Path`): Where its folder is.

    Returns:
        `list[dict]`: `sample`, unless it is so like a training text that it would quote it where that is not allowed;
        `likeness` to the nearest training text, in [0, 1]; and `nearest`, that text, or of those that may be quoted the
        nearest, or nothing.
    """
    samples = [words(pair["sample"]) for pair in pairs]
    likest = [likeness(words(pair["nearest"]), sample) for pair, sample in zip(pairs, samples, strict=True)]
    said: list[dict[str, Any]] = [
        {"sample": pair["sample"] if quotes == "all" or value < TOO_LIKE else LEFT_OUT, "likeness": value}
        for pair, value in zip(pairs, likest, strict=True)
    ]
    if not quotes:
        return said
    nearest = [pair["nearest"] for pair in pairs]
    if quotes != "all":
        free = (data / quotes / "train.txt").read_text(encoding="utf-8").splitlines()
        beginnings = [" ".join(text.split()[:NUM_READ]) for text in free]
        nearest = [beginnings[index] for index in nearest_texts(samples, map(words, beginnings))]
    return [one | {"nearest": text} for one, text in zip(said, nearest, strict=True)]


# ---- Reading -------------------------------------------------------------------------------------------------------


def read(results: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """Read all finished runs: task -> seed -> what is kept of it."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for name in TASKS:
        for path in sorted(results.glob(f"{name}_*.json")):
            seed = int(path.stem.rpartition("_")[2])
            found.setdefault(name, {})[seed] = json.loads(path.read_text(encoding="utf-8"))
    for name, runs in found.items():
        check_alike(name, runs)
    return found


def differences(runs: Mapping[int, Mapping[str, Any]], stage: str, other: str, metric: str) -> list[float]:
    """
    Compare two rows of the tables of some runs, seed by seed.

    Args:
        runs (`Mapping`): Of one task, by seed.
        stage, other (`str`): The rows.
        metric (`str`): The column.

    Returns:
        `list[float]`: the first less the other, of the seeds that have both.
    """
    pairs = [[run["stages"].get(row, {}).get(metric) for row in (stage, other)] for _, run in sorted(runs.items())]
    return [one - another for one, another in pairs if one is not None and another is not None]


# ---- Tables and pictures -------------------------------------------------------------------------------------------


def stages_table(runs: Mapping[int, Mapping[str, Any]]) -> str:
    """Show the rows of the recipe's table, mean and standard deviation over the seeds that have them."""
    (first, *_) = runs.values()
    columns = list(first["stages"][MLE])
    rows = []
    for stage in dict.fromkeys(stage for run in runs.values() for stage in run["stages"]):
        tables = [run["stages"][stage] for run in runs.values() if stage in run["stages"]]
        rows.append(
            [
                f"{stage}{_if_few(tables, len(runs))}",
                *(_cell([table[name] for table in tables if name in table], len(tables)) for name in columns),
            ]
        )
    return markdown_table(["", *columns], rows)


def _cell(values: Sequence[float], seeds: int) -> str:
    """Write what the seeds of a row have in a column, and how many have it where not all do."""
    return f"{mean_and_deviation(values)}{_if_few(values, seeds)}" if values else ""


def _if_few(found: Sequence[object], seeds: int) -> str:
    """Write how many seeds have something, where not all do."""
    return f" ({len(found)} of {seeds} seeds)" if len(found) < seeds else ""


def gains_table(task: Task, runs: Mapping[int, Mapping[str, Any]]) -> str:
    """
    Show what each game gains over MLE, and SeqGAN over each control; and what SeqGAN's gain costs, beside MLE at the
    temperature of equal quality.
    """
    (first, *_) = (run["stages"] for run in runs.values())
    gained = [name for name in (task.quality, *task.also, "nll", "nll_best") if name in first[MLE]]
    games = [stage for stage in first if stage == SEQGAN or stage.startswith(CONTROL)]
    rows = []
    for game in games:
        over_mle = [written(differences(runs, game, MLE, metric), len(runs)) for metric in gained]
        if game == SEQGAN:
            costs = [
                written(differences(runs, game, MATCHED_TEMPERATURE, metric), len(runs)) for metric in task.others
            ]
            rows.append([game, *over_mle, "", *costs])
        else:
            over_control = written(differences(runs, SEQGAN, game, task.quality), len(runs))
            rows.append([game, *over_mle, over_control, *[""] * len(task.others)])
    columns = [
        *(f"{metric} over MLE" for metric in gained),
        f"{task.quality} of SeqGAN over it",
        *(f"{metric} over MLE of equal {task.quality}" for metric in task.others),
    ]
    return markdown_table(["", *columns], rows)


def written(values: Sequence[float], seeds: int) -> str:
    """Write differences for a table, and of how many seeds they are where some have none."""
    if not values:
        return "no such temperature"
    return f"{with_p(values, 4)}{_if_few(values, seeds)}"


def samples_list(runs: Mapping[int, Mapping[str, Any]]) -> str:
    """List the samples of the first seed, each with its likeness to the nearest training text, and with one to quote."""
    lines = []
    for pair in runs[min(runs)]["samples"]:
        lines.append(f"- {one_line(pair['sample'])} ({pair['likeness']:.2f})")
        if "nearest" in pair:
            lines.append(f"  - nearest: {one_line(pair['nearest'])}")
    return "\n".join(lines)


def melodies_of(runs: Mapping[int, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return those samples of the first seed that are shown and are melodies, for pictures in rows of five."""
    shown = [pair["sample"] for pair in runs[min(runs)]["samples"] if is_melody(pair["sample"])]
    return {f"{row + 1} to {min(row + 5, len(shown))}": shown[row : row + 5] for row in range(0, len(shown), 5)}


def cost(runs: Mapping[int, Mapping[str, Any]]) -> str:
    """
    Write the CPU minutes of maximum likelihood, of D's language models and of one game, where known; how well these
    models and the generator before the game know unseen texts; and D's AUC.
    """
    seconds = [run["cpu_seconds"] for run in runs.values()]
    parts = {"maximum likelihood": "mle", "language models": "language_models", "the game": "game"}
    known = {what: [cpu[part] / 60 for cpu in seconds if cpu[part] is not None] for what, part in parts.items()}
    minutes = {what: mean_and_deviation(values, 1) for what, values in known.items() if any(values)}
    auc = mean_and_deviation([run["discriminator"]["auc"] for run in runs.values()], 2)
    said = ", ".join(f"{what} {value}" for what, value in minutes.items())
    seeds = "1 seed" if len(runs) == 1 else f"{len(runs)} seeds"
    readers = [reader["nll"] for run in runs.values() for reader in run.get("language_models", [])]
    known_texts = ""
    if readers:
        before = mean_and_deviation([run["first_stage"]["nll"] for run in runs.values()])
        known_texts = (
            f" NLL of validation texts: before the game {before}, of a language model {mean_and_deviation(readers)}."
        )
    return f"{seeds}. CPU minutes: {said}.{known_texts} AUC of D at the end, on unseen texts: {auc}."


def picture_link(what: str, picture: Path, page: Path) -> str:
    """Show a picture on the page, described by what it shows."""
    return f"![{what}]({os.path.relpath(picture, page.parent)})"


def write_page(results: Path, page: Path) -> None:
    """Fill the page from finished runs and draw its pictures."""
    found = read(results)
    tables: dict[str, str] = {}
    for name, task in TASKS.items():
        runs = found.get(name)
        parts = dict.fromkeys(("cost", "stages", "gains", "picture", "samples"), "Not measured yet.")
        if runs:
            picture = results / f"{name}.png"
            draw(task, runs, picture)
            what = f"BLEU-{task.order} and self-BLEU-{task.order} of {name} over the temperature"
            parts = {
                "cost": cost(runs), "stages": stages_table(runs), "gains": gains_table(task, runs),
                "picture": picture_link(what, picture, page), "samples": samples_list(runs),
            }  # fmt: skip
            if task.melodies and (rolls := melodies_of(runs)):
                drawn = plot_piano_rolls(rolls, results / f"{name}_samples.png")
                parts["samples"] = f"{picture_link('Piano rolls of them', drawn, page)}\n\n{parts['samples']}"
        tables |= {f"{part} {name}": text for part, text in parts.items()}
    write_whole(page, insert_tables(page.read_text(encoding="utf-8"), tables))


def draw(task: Task, runs: Mapping[int, Mapping[str, Any]], path: Path) -> None:
    """Draw the curves over the temperature, means over seeds, with the real texts."""
    (first, *_) = runs.values()
    curves: dict[str, list[dict[str, float]]] = {
        stage: mean_curve([run["curves"][stage] for run in runs.values()]) for stage in first["curves"]
    }
    real = [[{"temperature": 1.0, **run["stages"]["real texts"]}] for run in runs.values()]
    path.parent.mkdir(parents=True, exist_ok=True)
    plot_quality_and_diversity(
        curves | {"real texts": mean_curve(real)},
        path,
        "Up and to the left is better; each curve runs over the temperature",
        (f"self_bleu{task.order}", f"self-BLEU-{task.order} (how much alike samples are)"),
        (task.quality, f"BLEU-{task.order} against held-out texts"),
    )


def main() -> None:
    parser = study_parser(__doc__, ROOT / "outputs" / "real_data_study", RESULTS, PAGE)
    parser.add_argument("--data", type=Path, help="Where the data sets are.")
    parser.add_argument("--only", nargs="+", choices=list(TASKS), default=[], help="These tasks alone.")
    parser.add_argument("--seeds", type=int, default=NUM_SEEDS, help="How many, from 1 on.")
    parser.add_argument("--preset", default="paper", help="Of the recipes.")
    args = parser.parse_args()
    if not args.page_only:
        if args.data is None:
            parser.error("--data FOLDER is needed: where the data sets are. Or pass --page_only.")
        if not args.page.is_file():
            parser.error(
                f"There is no page {args.page} to write the tables into. Pass one with their markers by --page."
            )
        runs = missing(args.only, args.seeds, args.results)
        for folder in sorted({folder for name, _ in runs for folder in TASKS[name].folders}):
            if not (args.data / folder / "train.txt").is_file():
                parser.error(
                    f"{args.data / folder} has no train.txt: put the data set there, or leave it out by --only."
                )
        if failures := run_all(runs, lambda run: make(run, args), args.workers, args.work):
            sys.exit("\n".join(failures))
    write_page(args.results, args.page)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps({"benchmark": "real_data_study", "cpu_seconds": round(spent.ru_utime + spent.ru_stime)}))


if __name__ == "__main__":
    main()
