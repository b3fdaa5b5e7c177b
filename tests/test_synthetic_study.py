"""The synthetic study: what is still to run, how games are compared with their rivals, and one real small run."""

import fcntl
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import studies
import synthetic_study
from scipy import stats

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"

QUICK = [
    "--num_texts=120", "--num_test_samples=40", "--num_validation_texts=20", "--mle_epochs=1", "--max_steps=1",
    "--per_device_train_batch_size=8", "--discriminator_samples=4", "--discriminator_warmup_steps=1",
    "--language_models=1", "--language_model_size=8", "--logging_steps=1",
]  # fmt: skip
TABLES = ("stages", "gains", "controls", "second_stages", "second_gains")
PAGE = "".join(f"<!-- begin {name} -->\n<!-- end {name} -->\n" for name in TABLES)


@pytest.fixture
def starts_forks(machine, monkeypatch):
    """Let what this process starts by `sys.executable` be forks (see machine.py)."""
    monkeypatch.setattr(sys, "executable", machine.python)
    monkeypatch.setattr(os, "environ", machine.environment())


def curve(*points):
    return [dict(zip(("temperature", "NLL_oracle", "NLL_test"), point, strict=True)) for point in points]


def finished(shift, seed=1):
    """A run of MLE whose curve is known, and a game that is better by `shift` everywhere."""
    points = [(1.0, 9.5 + seed / 100, 7.4), (0.9, 9.2, 7.45), (0.8, 8.9, 7.6)]
    game = [(t, quality - shift - seed / 100, nll) for t, quality, nll in points]
    return {
        "curves": {"MLE": curve(*points), "SeqGAN": curve(*game)},
        "cpu_seconds": {"mle": 60.0, "language_models": 60.0, "game": 120.0},
        "discriminator": {"accuracy": 0.7, "auc": 0.75},
        "wall_seconds": 300.0,
        "oracle": "an oracle",
        "settings": {"seed": seed},
    }


def test_runs_that_left_their_file_are_not_made_again(tmp_path):
    (tmp_path / "modern_2.json").write_text("{}")
    assert synthetic_study.missing(["modern"], None, tmp_path) == [("modern", seed) for seed in (1, 3, 4, 5)]
    assert synthetic_study.missing(["modern"], 2, tmp_path) == [("modern", 1)]
    everything = synthetic_study.missing([], None, tmp_path)
    assert len(everything) == sum(run.seeds for run in synthetic_study.RUNS.values()) - 1


def test_a_control_differs_from_its_run_in_the_reward_alone(tmp_path):
    plain, control = (synthetic_study.command(name, 3, tmp_path, "o.npz") for name in ("modern", "modern_shuffled"))
    assert control == [*plain, "--reward_control", "shuffled"]
    assert plain[plain.index("--oracle") + 1] == "o.npz" and plain[plain.index("--seed") + 1] == "3"
    assert "--oracle" not in synthetic_study.command("second_modern", 1, tmp_path, "o.npz")


def test_the_rival_that_is_distilled_takes_the_flags_of_the_game(tmp_path):
    game, rival = (synthetic_study.command(name, 2, tmp_path, "o.npz") for name in ("modern", "modern_distilled"))
    assert rival[1].endswith("distillation.py") and rival[2:] == game[2:]
    curves = {"MLE": curve((1.0, 9.5, 7.4)), "distilled": curve((1.0, 9.3, 7.35))}
    runs = {1: {"curves": curves, "cpu_seconds": {"mle": 60.0, "distillation": 90.0}, "wall_seconds": None}}
    table = synthetic_study.stages_table({"modern_distilled": runs})
    assert "language models | 1 | 9.500 | 9.300 | 7.350 |  | 2.5 | - |" in table


def test_every_run_takes_networks_of_one_that_is_made_before():
    for name, run in synthetic_study.RUNS.items():
        if run.networks_of:
            source = synthetic_study.RUNS[run.networks_of]
            assert not source.networks_of and source.seeds >= run.seeds, name
            assert (source.preset, source.second_oracle) == (run.preset, run.second_oracle), name


def smooth(temperatures, shift=0.0):
    """A curve of known formula: its NLL_test is lowest at 0.977."""
    return curve(*((t, 8.5 + 4 * (t - 0.7) + (t - 0.7) ** 2 - shift, 7.36 + (t - 0.977) ** 2) for t in temperatures))


def quality_of(temperature):
    return 8.5 + 4 * (temperature - 0.7) + (temperature - 0.7) ** 2


@pytest.mark.parametrize("grid", [(1.0, 0.9, 0.8, 0.7), (0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05)])
def test_quality_is_read_off_between_temperatures_and_below_that_of_the_lowest_nll_test(grid):
    lowest = 7.36
    for temperature in (0.7, 0.83, 0.95):
        level = lowest + (temperature - 0.977) ** 2
        assert studies.quality_at(smooth(grid), level) == pytest.approx(quality_of(temperature), abs=1e-6)
    hotter = lowest + (1 - 0.977) ** 2  # what is had at 1 is had at 0.954, too
    assert studies.quality_at(smooth(grid), hotter) == pytest.approx(quality_of(0.954), abs=1e-6)
    assert studies.quality_at(smooth(grid), lowest) == pytest.approx(quality_of(0.977), abs=1e-3)


def test_the_ends_of_a_curve_belong_to_it():
    line = curve((1.0, 9.0, 7.4), (0.8, 8.0, 7.6))
    assert studies.quality_at(line, 7.4) == pytest.approx(9.0)
    assert studies.quality_at(line, 7.5) == pytest.approx(8.5)
    assert studies.quality_at(line, 7.6) == pytest.approx(8.0)


@pytest.mark.parametrize(
    ("nll_test", "message"),
    [
        (7.7, "The curve ends at an NLL_test of 7.6000; 7.7000 lies beyond. Measure lower temperatures, too."),
        (
            7.3,
            "The lowest NLL_test of the curve is 7.4000; 7.3000 lies below, and no temperature reaches it. Compare at a "
            "higher one.",
        ),
    ],
)
def test_quality_beyond_the_ends_of_a_curve_is_not_guessed(nll_test, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        studies.quality_at(curve((1.0, 9.0, 7.4), (0.8, 8.0, 7.6)), nll_test)


def test_a_gain_is_the_distance_between_curves_at_equal_diversity():
    runs = {seed: finished(0.3, seed) for seed in (1, 2, 3)}
    assert synthetic_study.gains(runs, runs, 0.9) == pytest.approx([0.31, 0.32, 0.33])
    assert synthetic_study.gains(runs, {2: runs[2]}, 0.8) == pytest.approx([0.32])
    without_a_game = {1: {"curves": {"MLE": curve((1.0, 9.2, 7.35), (0.8, 8.8, 7.45))}}}
    assert synthetic_study.gains(without_a_game, runs, 1.0) == pytest.approx([9.51 - 9.0])
    beyond = {1: {"curves": {"MLE": curve((1.0, 9.0, 7.9), (0.8, 8.0, 8.0))}}}
    assert synthetic_study.gains(runs, beyond, 1.0) == [None]


def test_runs_of_one_seed_on_different_texts_are_no_pair():
    rivals = {seed: finished(0.3, seed) | {"rows": f"texts {seed}"} for seed in (1, 2)}
    runs = {1: rivals[1], 2: rivals[2] | {"rows": "others"}}
    assert synthetic_study.gains(runs, rivals, 0.9) == pytest.approx([0.31])
    table = synthetic_study.gains_table({"modern": runs, "likelihood_dropout": rivals})
    assert "| SeqGAN `modern` | 1 | " in table
    table = synthetic_study.gains_table({"modern": {2: runs[2]}, "likelihood_dropout": rivals})
    assert "| SeqGAN `modern` | 0 | other texts | other texts | other texts |" in table


def test_a_rival_is_read_at_the_better_of_two_temperatures_of_one_nll_test():
    grid = (1.0, 0.9, 0.8, 0.7)
    rival, better = ({1: {"curves": {"MLE": smooth(grid, shift)}}} for shift in (0.0, 0.2))
    assert synthetic_study.gains(rival, rival, 1.0) == pytest.approx([0.0])
    assert synthetic_study.gains(better, rival, 1.0) == pytest.approx([0.2])


def test_a_run_less_diverse_than_its_rival_at_every_temperature_has_no_gain(tmp_path):
    narrow = {1: {"curves": {"MLE": curve((1.0, 8.0, 7.41), (0.8, 7.0, 8.0))}}}
    rivals = {1: finished(0.3)}
    assert synthetic_study.gains(narrow, rivals, 1.0) == [None]
    assert synthetic_study.gains(narrow, rivals, 0.9) == pytest.approx([9.2 - (8.0 - 0.04 / 0.59)])
    table = synthetic_study.gains_table({"likelihood_early": narrow, "likelihood_dropout": rivals})
    assert "| MLE, stopped early | 1 | not reached | 1.268 |" in table
    table = synthetic_study.gains_table({"likelihood_early": narrow | {2: narrow[1]}, "likelihood_dropout": rivals})
    assert "| MLE, stopped early | 1 |" in table, "the seeds that both have"
    some = {"likelihood_early": narrow | {2: rivals[1]}, "likelihood_dropout": rivals | {2: rivals[1]}}
    assert "| MLE, stopped early | 2 | reached by 1 of 2 seeds |" in synthetic_study.gains_table(some)


def test_p_is_that_of_the_paired_t_test():
    before, after = [9.5, 9.6, 9.4, 9.7], [9.3, 9.5, 9.3, 9.4]
    differences = [b - a for b, a in zip(before, after, strict=True)]
    assert studies.paired_p(differences) == pytest.approx(stats.ttest_rel(before, after).pvalue)
    assert math.isnan(studies.paired_p([0.1]))


def test_the_interval_is_that_of_the_paired_t_test():
    differences = [0.2, 0.1, 0.4]
    low, high = stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
    assert studies.with_interval(differences) == f"0.233 [{low:.3f}, {high:.3f}]"
    # By hand: a mean of 0.2333, a standard error of 0.0882, and Student's 97.5 % quantile for three, 4.303.
    assert studies.with_interval(differences) == "0.233 [-0.146, 0.613]"
    assert studies.with_interval([0.1]) == "0.100"


def test_a_control_falls_short_by_its_distance_at_equal_diversity():
    points = [(1.0, 9.0, 7.4), (0.8, 8.0, 7.6)]
    game = {"curves": {"MLE": [], "SeqGAN": curve(*points)}}
    control = {"curves": {"MLE": [], "SeqGAN": curve(*((t, quality + 0.1, nll + 0.04) for t, quality, nll in points))}}
    # At the control's NLL_test of 7.44 the game is at a temperature of 0.96, with an NLL_oracle of 8.8.
    assert synthetic_study.shortfalls(game, control) == pytest.approx((0.1, 0.04, 0.3))
    assert synthetic_study.shortfalls(control, game) == pytest.approx((-0.1, -0.04, -0.3))
    found = {"faithful": {1: game, 2: game, 3: game}, "faithful_random": {1: control, 3: control}}
    row = "| `faithful`, reward random | 2 | 0.100 [0.100, 0.100] | 0.040 [0.040, 0.040] | 0.300 [0.300, 0.300] |"
    assert row in synthetic_study.controls_table(found)
    far = {"curves": {"MLE": [], "SeqGAN": curve((1.0, 9.0, 7.9), (0.8, 8.0, 8.0))}}
    assert synthetic_study.shortfalls(game, far) == (0.0, 0.5, None)
    found["faithful_random"] = {1: control | {"rows": "others"}}
    assert "random" not in synthetic_study.controls_table(found), "other texts are no pair"


def test_the_page_shows_means_deviations_minutes_and_gains(tmp_path):
    results, page = tmp_path / "results", tmp_path / "page.md"
    results.mkdir()
    page.write_text(PAGE)
    for seed in (1, 2, 3):
        for name in ("modern", "likelihood_dropout"):
            (results / f"{name}_{seed}.json").write_text(json.dumps(finished(0.3, seed)))
    synthetic_study.write_page(results, page)
    written = page.read_text()
    likelihoods = "9.520 +- 0.010 | 9.200 +- 0.000 | 7.400 +- 0.000"
    assert (
        f"| SeqGAN `modern` | 3 | {likelihoods} | 0.70 +- 0.00 / 0.75 +- 0.00 | 4.0 +- 0.0 | 5.0 +- 0.0 |" in written
    )
    assert "| 0.320 +- 0.010 (p = 0.0003) |" in written
    assert "| where `modern` begins, and stays with a constant reward | 3 |  | 9.520 +- 0.010 | 7.400" in written
    for picture in ("first_plane.png", "first_closeup.png"):
        assert (results / picture).stat().st_size > 10_000
    again = page.read_text()
    synthetic_study.write_page(results, page)
    assert page.read_text() == again


def test_a_picture_says_which_means_are_over_fewer_seeds(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        synthetic_study,
        "plot_quality_and_diversity",
        lambda curves, path, looks: drawn.update({path.name: dict(zip(curves, looks.values(), strict=True))}),
    )
    runs = {seed: finished(0.3, seed) for seed in (1, 2, 3)}
    found = {"second_modern": runs, "second_likelihood_dropout": runs, "second_modern_random": {3: runs[3]}}
    synthetic_study.draw(found, tmp_path, "second_")
    labels = ["MLE, weight decay and dropout", "SeqGAN modern", "modern, reward random (1 of 3 seeds)"]
    assert list(drawn["second_closeup.png"]) == labels
    assert drawn["second_plane.png"].items() <= drawn["second_closeup.png"].items(), "a generator looks alike in both"


def test_runs_on_different_oracles_are_not_compared(tmp_path):
    other = finished(0.1) | {"oracle": "another"}
    for name, run in (("modern_1", finished(0.1)), ("modern_2", other), ("second_modern_1", other)):
        (tmp_path / f"{name}.json").write_text(json.dumps(run))
    message = f"{tmp_path} holds runs on different oracles, an oracle and another, which do not compare."
    with pytest.raises(ValueError, match=re.escape(message)):
        synthetic_study.read(tmp_path)
    (tmp_path / "modern_2.json").unlink()
    beginnings = {"modern_beginning", "second_modern_beginning"}
    assert set(synthetic_study.read(tmp_path)) == {"modern", "second_modern"} | beginnings


def test_where_a_game_begins_is_its_curve_of_maximum_likelihood_and_its_time(tmp_path):
    run = finished(0.1) | {"rows": "texts 1"}
    (tmp_path / "second_modern_1.json").write_text(json.dumps(run))
    beginning = synthetic_study.read(tmp_path)["second_modern_beginning"]
    assert synthetic_study.last_stage(beginning[1]) == run["curves"]["MLE"]
    assert synthetic_study.paired(beginning, {1: run}) == [1]
    assert synthetic_study.cpu_minutes(beginning) == "1.0" and synthetic_study.wall_minutes(beginning) == "-"


def test_times_of_resumed_runs_are_left_out():
    whole, resumed = finished(0.1), finished(0.1)
    resumed["cpu_seconds"]["game"], resumed["wall_seconds"] = None, None
    assert synthetic_study.cpu_minutes({1: whole, 2: resumed}) == "4.0"
    assert synthetic_study.cpu_minutes({2: resumed}) == "-"
    assert synthetic_study.wall_minutes({1: whole, 2: resumed}) == "5.0"
    assert synthetic_study.wall_minutes({2: resumed}) == "-"


def test_a_real_run_leaves_its_small_file_and_a_control_takes_its_networks(
    tmp_path, monkeypatch, capsys, starts_forks
):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    flags = ["--only", "modern", "modern_random", "--seeds", "1", "--workers", "1", "--work", str(tmp_path / "work")]
    paths = ["--results", str(tmp_path / "results"), "--page", str(page), "--extra", *QUICK]
    monkeypatch.setattr(sys, "argv", ["synthetic_study.py", *flags, *paths])
    synthetic_study.main()
    kept = json.loads((tmp_path / "results" / "modern_1.json").read_text())
    assert set(kept["curves"]) == {"MLE", "SeqGAN"} and kept["wall_seconds"] > 0
    control = json.loads((tmp_path / "results" / "modern_random_1.json").read_text())
    assert control["first_stage"] == kept["first_stage"] and control["curves"]["MLE"] == kept["curves"]["MLE"]
    capsys.readouterr()
    synthetic_study.main()
    assert "begins" not in capsys.readouterr().out


def test_a_run_that_fails_is_named_with_its_log(tmp_path, monkeypatch, starts_forks):
    flags = ["--only", "likelihood_early", "--seeds", "1", "--work", str(tmp_path), "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["synthetic_study.py", *flags, "--extra", "--num_texts=0"])
    with pytest.raises(SystemExit, match=r"likelihood_early, seed 1, failed: see .*log\.txt"):
        synthetic_study.main()
    assert "`num_texts` must be at least 1" in (tmp_path / "likelihood_early" / "seed_1" / "log.txt").read_text()


def test_a_control_without_the_networks_of_its_run_is_refused(tmp_path):
    args = Namespace(work=tmp_path, results=tmp_path, oracle=None, extra=[])
    message = f"modern_random takes the networks of modern, and {tmp_path} has none of seed 2. Make that run there."
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        synthetic_study.make("modern_random", 2, args)


# ---- Stopped at will -----------------------------------------------------------------------------------------------

STUDY = """
import sys
from pathlib import Path
import studies
work = Path(sys.argv[1])
program = "import time, pathlib; pathlib.Path('began').touch(); time.sleep(600)"
def make(run):
    folder = studies.run_folder(work, run)
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", f"import os; os.chdir({str(folder)!r}); {program}"]
    studies.run_recipe(run[0], command, folder, False)
print(studies.run_all([("run", 1), ("run", 2)], make, 1, work))
"""


def test_a_terminated_study_ends_what_it_began_and_begins_no_more(tmp_path):
    begun = [tmp_path / "run" / f"seed_{seed}" / "began" for seed in (1, 2)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", STUDY, str(tmp_path)]
    study = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    until = time.monotonic() + 60
    while not begun[0].is_file():
        assert time.monotonic() < until
        time.sleep(0.05)
    with pytest.raises(RuntimeError, match="one run is being run by another process, which holds"):
        studies.run_recipe("one run", ["false"], begun[0].parent, False)
    study.terminate()
    said, _ = study.communicate(timeout=60)
    assert study.returncode == 128 + signal.SIGTERM and "[" not in said
    assert not begun[1].exists()
    with open(begun[0].parent / "lock") as lock:  # its process is gone
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
