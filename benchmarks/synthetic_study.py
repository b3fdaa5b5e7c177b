"""
The synthetic experiment as a whole: many runs of recipes/synthetic_oracle.py, then docs/results/synthetic.md.

    python benchmarks/synthetic_study.py --oracle target_params.npz            # all that is missing, 12 to 30 CPU hours
    python benchmarks/synthetic_study.py --oracle target_params.npz --only modern --seeds 1
    python benchmarks/synthetic_study.py --page_only                            # tables and pictures from what is there

Stopped and called again, it goes on: a finished run leaves docs/results/synthetic/<name>_<seed>.json at once and is not
repeated, an interrupted one resumes from its last checkpoint in `--work`. Controls take the networks that maximum
likelihood made for the run that they control.

Runs pair where their texts are the same. Processors round otherwise, and from one seed may draw a few other texts (5 of
21,000 with AVX-512): to go on elsewhere with a study, keep to one instruction set, ATEN_CPU_CAPABILITY=avx2 for the runs
in docs/results/synthetic/.
"""

import json
import resource
import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from performance import insert_tables, markdown_table
from studies import (
    check_alike,
    keep,
    mean_and_deviation,
    mean_curve,
    quality_at,
    run_all,
    run_folder,
    run_recipe,
    study_parser,
    with_interval,
    with_p,
)

from seqgan_hf.bench import point_at
from seqgan_hf.checkpoints import write_whole
from seqgan_hf.plots import plot_quality_and_diversity

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results" / "synthetic"
PAGE = ROOT / "docs" / "results" / "synthetic.md"
RECIPE = ROOT / "recipes" / "synthetic_oracle.py"
DISTILLATION = ROOT / "benchmarks" / "distillation.py"
# A constant reward teaches nothing under the baseline of `modern`, every step being worth as much as the one before: that
# control ends where the game begins, and is not played.
CONTROLS = {"faithful": ("constant", "shuffled", "random"), "modern": ("shuffled", "random")}
# The controls of `modern` end far from it; those of `faithful` no further than another seed of it does.
CONTROL_SEEDS = {"faithful": 5, "modern": 3}
BEGINNING = "modern_beginning"
# The same game, with a discriminator that stays as it begins: the plain likelihood ratio.
FROZEN = "modern_frozen"
KEPT = (
    "curves",
    "discriminator",
    "first_stage",
    "language_models",
    "teachers_nll",
    "cpu_seconds",
    "oracle",
    "rows",
    "settings",
)
SECOND_ORACLE = 2024
# Of the names of runs: on the first oracle, and on another.
PREFIXES = ("", "second_")


@dataclass(frozen=True)
class Run:
    """
    One game, or one stage of maximum likelihood, repeated over seeds.

    Args:
        preset (`str`): Of the recipe.
        seeds (`int`): How many, from 1 on.
        flags (`tuple[str, ...]`): Set over the preset.
        networks_of (`str`): The run whose networks of maximum likelihood are taken; none: its own.
        second_oracle (`bool`): On another oracle.
        script (`Path`): The recipe, or another that takes its flags.
    """

    preset: str
    seeds: int = 5
    flags: tuple[str, ...] = field(default=())
    networks_of: str = ""
    second_oracle: bool = False
    script: Path = RECIPE


# Maximum likelihood alone, on all texts.
_LIKELIHOOD = ("--game", "false", "--discriminator_data", "same")


RUNS: dict[str, Run] = {
    "faithful": Run("faithful"),
    "modern": Run("modern"),
    "likelihood_early": Run("modern", flags=(*_LIKELIHOOD, "--generator_dropout", "0", "--mle_weight_decay", "0")),
    "likelihood_dropout": Run("modern", flags=_LIKELIHOOD),
    "likelihood_wide": Run(
        "modern",
        flags=(
            *_LIKELIHOOD,
            *("--hidden_size", "64", "--embedding_size", "64"),
            *("--generator_dropout", "0.2", "--mle_weight_decay", "0.4"),
        ),
    ),
    **{
        f"{preset}_{name}": Run(preset, CONTROL_SEEDS[preset], ("--reward_control", name), preset)
        for preset, names in CONTROLS.items()
        for name in names
    },
    FROZEN: Run("modern", 5, ("--discriminator_warmup_steps", "0", "--discriminator_steps", "0"), "modern"),
    "modern_distilled": Run("modern", networks_of="modern", script=DISTILLATION),
    "second_modern": Run("modern", 3, second_oracle=True),
    "second_likelihood_dropout": Run("modern", 3, _LIKELIHOOD, second_oracle=True),
    "second_faithful": Run("faithful", 3, second_oracle=True),
    **{
        f"second_modern_{name}": Run("modern", 3, ("--reward_control", name), "second_modern", second_oracle=True)
        for name in CONTROLS["modern"]
    },
    "second_modern_distilled": Run("modern", 3, networks_of="second_modern", second_oracle=True, script=DISTILLATION),
}


# The best generator of maximum likelihood, of the size that all have.
RIVAL = "likelihood_dropout"


# ---- Running -------------------------------------------------------------------------------------------------------


def missing(only: Sequence[str], seeds: int | None, results: Path) -> list[tuple[str, int]]:
    """
    List the runs that are yet to be made, in an order in which whose networks are taken comes first.

    Args:
        only (`Sequence[str]`): Names of runs; empty: all.
        seeds (`int`, *optional*): The most seeds of each.
        results (`Path`): Where finished ones are.

    Returns:
        `list` of names and seeds.
    """
    wanted = [(name, seed) for name, run in RUNS.items() for seed in range(1, run.seeds + 1)]
    wanted = [(name, seed) for name, seed in wanted if (not only or name in only) and seed <= (seeds or seed)]
    return [(name, seed) for name, seed in wanted if not (results / f"{name}_{seed}.json").is_file()]


def command(name: str, seed: int, folder: Path, oracle: str | None, extra: Sequence[str] = ()) -> list[str]:
    """
    Return the command line of a run.

    Args:
        name (`str`): Of [`RUNS`].
        seed (`int`): Its seed.
        folder (`Path`): Its `output_dir`.
        oracle (`str`, *optional*): The first oracle's parameters; by default it is drawn by the recipe's seed.
        extra (`Sequence[str]`): Flags over all others.
    """
    run = RUNS[name]
    truth = ["--oracle_seed", str(SECOND_ORACLE)] if run.second_oracle else ["--oracle", oracle] if oracle else []
    settings = [*truth, "--seed", str(seed), "--output_dir", str(folder), "--resume_from_checkpoint", "true"]
    settings += ["--disable_tqdm", "true", "--log_completions", "false"]
    return [sys.executable, str(run.script), "--preset", run.preset, *settings, *run.flags, *extra]


def make(name: str, seed: int, args: Namespace) -> None:
    """Make one run, and keep its small metrics file."""
    run, folder = RUNS[name], run_folder(args.work, (name, seed))
    interrupted = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    if run.networks_of:
        networks = [path.parent for path in (args.work / run.networks_of / f"seed_{seed}").glob("mle*/metrics.json")]
        if not networks:
            raise FileNotFoundError(
                f"{name} takes the networks of {run.networks_of}, and {args.work} has none of seed {seed}. Make that run "
                "there."
            )
        for network in networks:
            shutil.copytree(network, folder / network.name, dirs_exist_ok=True)
    arguments = command(name, seed, folder, args.oracle, args.extra)
    report = run_recipe(f"{name}, seed {seed}", arguments, folder, interrupted)
    kept = keep(report, KEPT, args.results / f"{name}_{seed}.json")
    print(f"{time.strftime('%H:%M')} {name}, seed {seed}: {last_points(kept['curves'])}", flush=True)


def last_points(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Say where each stage stands at temperature 1."""
    points = {stage: point_at(curve) for stage, curve in curves.items()}
    return ", ".join(f"{stage} {point['NLL_oracle']:.3f} / {point['NLL_test']:.3f}" for stage, point in points.items())


# ---- Reading -------------------------------------------------------------------------------------------------------


def read(results: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """Read all finished runs, and where `modern` begins: name -> seed -> what is kept of it."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for name, run in RUNS.items():
        for seed in range(1, run.seeds + 1):
            path = results / f"{name}_{seed}.json"
            if path.is_file():
                found.setdefault(name, {})[seed] = json.loads(path.read_text(encoding="utf-8"))
    for name, of_seeds in found.items():
        check_alike(name, of_seeds)
    for second in (False, True):
        runs = [
            run for name, of_seeds in found.items() if RUNS[name].second_oracle == second for run in of_seeds.values()
        ]
        if len(oracles := {run["oracle"] for run in runs}) > 1:
            raise ValueError(
                f"{results} holds runs on different oracles, {' and '.join(sorted(oracles))}, which do not compare. "
                "Remove those on one of them."
            )
    for prefix in PREFIXES:
        if games := found.get(f"{prefix}modern"):
            found[prefix + BEGINNING] = {seed: before_its_game(run) for seed, run in games.items()}
    return found


def before_its_game(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run as it was after maximum likelihood."""
    kept = {name: run[name] for name in ("oracle", "rows", "settings") if name in run}
    kept |= {"curves": {"MLE": run["curves"]["MLE"]}, "cpu_seconds": {"mle": run["cpu_seconds"]["mle"]}}
    return kept | {"wall_seconds": None}


def last_stage(run: Mapping[str, Any]) -> list[dict[str, float]]:
    """Return the curve of a run's last checkpoint: of its game, or of maximum likelihood where that was all."""
    curves: dict[str, list[dict[str, float]]] = run["curves"]
    return list(curves.values())[-1]


def paired(runs: Mapping[int, Mapping[str, Any]], rivals: Mapping[int, Mapping[str, Any]]) -> list[int]:
    """Return the seeds of which two runs have the same texts: another version may draw others from the same seed."""
    return [seed for seed in sorted(set(runs) & set(rivals)) if runs[seed].get("rows") == rivals[seed].get("rows")]


def gains(
    runs: Mapping[int, Mapping[str, Any]], rivals: Mapping[int, Mapping[str, Any]], temperature: float
) -> list[float | None]:
    """
    Compare runs with a rival's temperature curve at equal NLL_test, seed by seed.

    Args:
        runs (`Mapping`): Games or other models, by seed.
        rivals (`Mapping`): Runs with a curve of maximum likelihood, by seed. Pairs are of the same texts.
        temperature (`float`): Of the rival: its NLL_test there is where both are compared, each at the temperature by
            which it gets there with the better samples. Where the rival's NLL_test is lowest below a temperature of 1,
            that is not 1.

    Returns:
        `list[float | None]`: NLL_oracle of the rival less that of the run, nats per token; above 0 the run is better.
        `None` for a seed where the rival's NLL_test lies beyond an end of the run's curve.
    """
    found = []
    for seed in paired(runs, rivals):
        rival = rivals[seed]["curves"]["MLE"]
        found.append(ahead_at(point_at(rival, temperature)["NLL_test"], last_stage(runs[seed]), rival))
    return found


def shortfalls(game: Mapping[str, Any], control: Mapping[str, Any]) -> tuple[float, float, float | None]:
    """
    Say by how much a control ends worse than its game.

    Args:
        game, control (`Mapping`): Runs on the same texts.

    Returns:
        `tuple`: differences of NLL_oracle and of NLL_test at a temperature of 1; and of NLL_oracle at equal NLL_test,
        the larger of the two, which the other run has at a lower temperature. Nats per token, above 0 where the game is
        better. The last is `None` if the other run has no such NLL_test at any temperature.
    """
    curves = [last_stage(run) for run in (game, control)]
    ends = [point_at(curve) for curve in curves]
    level = max(end["NLL_test"] for end in ends)
    quality, diversity = (ends[1][key] - ends[0][key] for key in ("NLL_oracle", "NLL_test"))
    return quality, diversity, ahead_at(level, *curves)


def ahead_at(level: float, curve: Sequence[Mapping[str, float]], rival: Sequence[Mapping[str, float]]) -> float | None:
    """Return by how much a curve's NLL_oracle is lower than a rival's at some NLL_test; `None` if one has none such."""
    try:
        return quality_at(rival, level) - quality_at(curve, level)
    except ValueError:
        return None


# ---- Tables and pictures -------------------------------------------------------------------------------------------

_TITLES = {
    "likelihood_early": "MLE, stopped early",
    "likelihood_dropout": "MLE, weight decay 0.3, dropout 0.1",
    "likelihood_wide": "MLE, as one of `modern`'s language models (width 64)",
    "faithful": "SeqGAN `faithful`",
    **{f"faithful_{name}": f"`faithful`, reward {name}" for name in CONTROLS["faithful"]},
    "modern": "SeqGAN `modern`",
    BEGINNING: "where `modern` begins, and stays with a constant reward",
    **{f"modern_{name}": f"`modern`, reward {name}" for name in CONTROLS["modern"]},
    FROZEN: "`modern`, D does not learn",
    "modern_distilled": "MLE, then distilled from `modern`'s language models",
}


def stages_table(found: Mapping[str, Mapping[int, Mapping[str, Any]]], prefix: str = "") -> str:
    """Show where each run ends at temperature 1, with its own start, D's verdict and its time."""
    rows = []
    for name, title in _TITLES.items():
        runs = found.get(prefix + name)
        if not runs:
            continue
        two_stages = all(len(run["curves"]) > 1 for run in runs.values())
        ends = [point_at(last_stage(run)) for run in runs.values()]
        starts = [point_at(run["curves"]["MLE"])["NLL_oracle"] for run in runs.values()]
        verdicts = [run["discriminator"] for run in runs.values() if "discriminator" in run]
        known = " / ".join(mean_and_deviation([one[key] for one in verdicts], 2) for key in ("accuracy", "auc"))
        rows.append(
            [
                title, str(len(runs)), mean_and_deviation(starts) if two_stages else "",
                *(mean_and_deviation([end[key] for end in ends]) for key in ("NLL_oracle", "NLL_test")),
                known if verdicts else "", cpu_minutes(runs), wall_minutes(runs),
            ]
        )  # fmt: skip
    measured = ["its MLE: NLL_oracle", "NLL_oracle", "NLL_test", "D, held out: accuracy / AUC"]
    return markdown_table(["", "seeds", *measured, "CPU minutes", "wall minutes"], rows)


def cpu_minutes(runs: Mapping[int, Mapping[str, Any]]) -> str:
    """Write the CPU minutes of runs, maximum likelihood included and measuring left out, where all are known."""
    totals = []
    for run in runs.values():
        seconds = list(run["cpu_seconds"].values())
        if None not in seconds:
            totals.append(sum(seconds) / 60)
    return mean_and_deviation(totals, 1)


def wall_minutes(runs: Mapping[int, Mapping[str, Any]]) -> str:
    """Write the minutes that runs took by the clock, measuring included, where they were not interrupted."""
    known = [run["wall_seconds"] / 60 for run in runs.values() if run["wall_seconds"] is not None]
    return mean_and_deviation(known, 1)


def gains_table(found: Mapping[str, Mapping[int, Mapping[str, Any]]], prefix: str = "") -> str:
    """Compare runs with the rival's temperature curve: at its NLL_test, how much better are the samples?"""
    rivals = found.get(prefix + RIVAL, {})
    temperatures = (1.0, 0.9, 0.8)
    rows = []
    for name, title in _TITLES.items():
        runs = found.get(prefix + name, {})
        if not set(runs) & set(rivals) or name == RIVAL:
            continue
        seeds = paired(runs, rivals)
        if not seeds:
            rows.append([title, "0", *["other texts"] * len(temperatures)])
            continue
        cells = [_where_reached(gains(runs, rivals, temperature), with_p) for temperature in temperatures]
        rows.append([title, str(len(seeds)), *cells])
    return markdown_table(["", "seeds", *(f"at the rival's NLL_test at {t:g}" for t in temperatures)], rows)


def _where_reached(values: Sequence[float | None], write: Callable[[list[float]], str]) -> str:
    """Write what seeds have if all have it, and otherwise how many do."""
    reached = [value for value in values if value is not None]
    if len(reached) == len(values):
        return write(reached)
    return f"reached by {len(reached)} of {len(values)} seeds" if reached else "not reached"


def controls_table(found: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> str:
    """Compare each game with its controls, seed by seed: by how much do they end worse?"""
    rows = []
    for preset, names in CONTROLS.items():
        others = (FROZEN, BEGINNING) if preset == "modern" else ()
        for name in (*others, *(f"{preset}_{name}" for name in names)):
            games, controls = found.get(preset, {}), found.get(name, {})
            if seeds := paired(games, controls):
                worse = [shortfalls(games[seed], controls[seed]) for seed in seeds]
                cells = [_where_reached(values, with_interval) for values in zip(*worse, strict=True)]
                rows.append([_TITLES[name], str(len(seeds)), *cells])
    measured = ["NLL_oracle, at temperature 1", "NLL_test, at temperature 1", "NLL_oracle, at equal NLL_test"]
    return markdown_table(["", "seeds", *measured], rows)


# Pictures, with the run, the stage and the label of each curve. The second is a close-up of the first, with the controls.
PLANES = {
    "plane": (
        ("faithful", "MLE", "MLE, overfitted as in the paper"),
        ("likelihood_early", "MLE", "MLE, stopped early"),
        (RIVAL, "MLE", "MLE, weight decay and dropout"),
        ("likelihood_wide", "MLE", "MLE, as a language model of modern (width 64)"),
        ("faithful", "SeqGAN", "SeqGAN faithful"),
        ("faithful_constant", "SeqGAN", "faithful, reward constant"),
        ("modern", "SeqGAN", "SeqGAN modern"),
    ),
    "closeup": (
        (RIVAL, "MLE", "MLE, weight decay and dropout"),
        ("likelihood_wide", "MLE", "MLE, as a language model of modern (width 64)"),
        (BEGINNING, "MLE", "where modern begins (95 % of the texts)"),
        ("modern", "SeqGAN", "SeqGAN modern"),
        ("modern_distilled", "distilled", "distilled from modern's language models"),
        *((f"modern_{name}", "SeqGAN", f"modern, reward {name}") for name in CONTROLS["modern"]),
    ),
}
# A generator looks alike in all of them.
_LOOKS = {
    label: number for number, label in enumerate(dict.fromkeys(label for of in PLANES.values() for *_, label in of))
}


def draw(found: Mapping[str, Mapping[int, Mapping[str, Any]]], folder: Path, prefix: str = "") -> None:
    """Draw the plane of quality and diversity, and a close-up: means over seeds, of how many where some have fewer."""
    for picture, wanted in PLANES.items():
        shown = [(found[prefix + name], stage, label) for name, stage, label in wanted if prefix + name in found]
        most = max((len(runs) for runs, *_ in shown), default=0)
        curves, looks = {}, {}
        for runs, stage, label in shown:
            name = label if len(runs) == most else f"{label} ({len(runs)} of {most} seeds)"
            curves[name] = mean_curve([run["curves"][stage] for run in runs.values()])
            looks[name] = _LOOKS[label]
        if curves:
            folder.mkdir(parents=True, exist_ok=True)
            plot_quality_and_diversity(curves, folder / f"{prefix or 'first_'}{picture}.png", looks=looks)


def write_page(results: Path, page: Path) -> None:
    """Fill the tables of the page and draw its pictures from finished runs."""
    found = read(results)
    makers = {"stages": stages_table, "gains": gains_table}
    tables = {prefix + name: make_table(found, prefix) for prefix in PREFIXES for name, make_table in makers.items()}
    tables["controls"] = controls_table(found)
    write_whole(page, insert_tables(page.read_text(encoding="utf-8"), tables))
    for prefix in PREFIXES:
        draw(found, results, prefix)


def main() -> None:
    parser = study_parser(__doc__, ROOT / "outputs" / "synthetic_study", RESULTS, PAGE)
    parser.add_argument("--oracle", help="The first oracle's parameters (.npz); by default one is drawn.")
    parser.add_argument("--only", nargs="+", choices=list(RUNS), default=[], help="These runs alone.")
    parser.add_argument("--seeds", type=int, help="The most seeds of each.")
    args = parser.parse_args()
    if not args.page_only:
        runs = missing(args.only, args.seeds, args.results)
        first = [run for run in runs if not RUNS[run[0]].networks_of]  # others take their networks
        for some in (first, [run for run in runs if run not in first]):
            if failures := run_all(some, lambda run: make(*run, args), args.workers, args.work):
                sys.exit("\n".join(failures))
    write_page(args.results, args.page)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps({"benchmark": "synthetic_study", "cpu_seconds": round(spent.ru_utime + spent.ru_stime)}))


if __name__ == "__main__":
    main()
