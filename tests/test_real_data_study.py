"""The study on real text: what is still to run, what the page says of runs, and one real small run."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import real_data_study

ROOT = Path(__file__).parent.parent

PARTS = ("cost", "stages", "gains", "picture", "samples")
PAGE = "".join(
    f"<!-- begin {part} {task} -->\n<!-- end {part} {task} -->\n" for task in real_data_study.TASKS for part in PARTS
)
QUICK = [
    "--preset", "smoke", "--extra", "--mle_epochs=1", "--max_steps=1", "--num_rollouts=1", "--num_test_samples=12",
    "--discriminator_warmup_steps=1", "--discriminator_samples=4", "--per_device_train_batch_size=4",
    "--temperatures=0.5", "--logging_steps=1",
]  # fmt: skip


def finished(seed, matched=True):
    """A run whose game gains 0.1 and a little more with the seed, at the price of as much self-BLEU."""

    def point(gain, temperature=1.0):
        metrics = {"temperature": temperature, "nll": 4 - gain / 10, "bleu2": 0.5 + gain, "self_bleu2": 0.3 + gain}
        return metrics | {"distinct2": 0.9 - gain, "novelty2": 0.2, "copied": 0.0}

    gain = 0.1 + seed / 100
    stages = {"MLE": point(0.0), "MLE, best temperature": point(0.05, 0.9)}
    stages |= {"MLE, matched temperature": point(gain + seed / 1000, 0.8)} if matched else {}
    stages |= {
        "SeqGAN": point(gain),
        "SeqGAN, temperature 0.7": point(0.2, 0.7),
        "SeqGAN, reward constant": point(0.07 + seed % 2 / 500),
        "real texts": {"bleu2": 0.6},
    }
    stages["real texts"] |= {"self_bleu2": 0.4, "distinct2": 0.8, "novelty2": 0.3, "copied": 0.0}
    curves = {stage: [stages[stage], point(0.2, 0.7)] for stage in ("MLE", "SeqGAN", "SeqGAN, reward constant")}
    return {
        "settings": {"seed": seed, "max_steps": 80}, "stages": stages, "curves": curves, "discriminator": {"auc": 0.7},
        "cpu_seconds": {"mle": 60.0, "language_models": 0.0, "game": None if seed == 3 else 120.0},
        "samples": [{"sample": f"poem {seed}", "likeness": 0.5, "nearest": "real one"}],
    }  # fmt: skip


def test_runs_that_left_their_file_are_not_made_again(tmp_path):
    (tmp_path / "poems_1.json").write_text("{}")
    assert real_data_study.missing(["poems", "music"], 2, tmp_path) == [("music", 1), ("poems", 2), ("music", 2)]
    assert len(real_data_study.missing([], 3, tmp_path)) == 3 * len(real_data_study.TASKS) - 1


def test_every_task_plays_its_recipe_on_its_data_with_all_controls(tmp_path):
    for name, task in real_data_study.TASKS.items():
        arguments = real_data_study.command((name, 2), tmp_path, Path("data"), "paper", ["--max_steps=1"])
        assert Path(arguments[1]).is_file() and arguments[-1] == "--max_steps=1"
        assert arguments[arguments.index("--dataset_name") + 1] == str(Path("data") / task.data)
        assert arguments[arguments.index("--controls") + 1 :][:3] == ["constant", "shuffled", "random"]
        for preset in ("paper", "modern"):
            assert (ROOT / "recipes" / "configs" / task.recipe / f"{preset}.yaml").is_file()


def test_the_page_shows_rows_gains_samples_and_a_picture(tmp_path):
    results, page = tmp_path / "results", tmp_path / "page.md"
    results.mkdir()
    page.write_text(PAGE)
    for seed in (1, 2, 3):
        (results / f"poems_{seed}.json").write_text(json.dumps(finished(seed)))
    real_data_study.write_page(results, page)
    written = page.read_text()
    assert "| SeqGAN | 1.000 +- 0.000 | 3.988 +- 0.001 | 0.620 +- 0.010 |" in written
    assert "| real texts |  |  | 0.600 +- 0.000 |" in written
    over_mle = "0.1200 +- 0.0100 (p = 0.002) | -0.0120 +- 0.0010 (p = 0.002)"
    assert f"| SeqGAN | {over_mle} |  | -0.0020 +- 0.0010 (p = 0.07) | 0.0020 +- 0.0010 (p = 0.07) |" in written
    over_it = "0.0487 +- 0.0101 (p = 0.01)"
    over_mle = "0.0713 +- 0.0012 (p = 9e-05) | -0.0071 +- 0.0001 (p = 9e-05)"
    assert f"| SeqGAN, reward constant | {over_mle} | {over_it} |  |  |  |" in written
    assert written.count("| SeqGAN, temperature 0.7 |") == 1  # a row of the stages, no game
    assert "- poem 1 (0.50)\n  - nearest: real one" in written and "poem 2" not in written
    assert "3 seeds. CPU minutes: maximum likelihood 1.0 +- 0.0, the game 2.0 +- 0.0. AUC of D" in written
    assert "![BLEU-2 and self-BLEU-2 of poems over the temperature](results/poems.png)" in written
    assert "<!-- begin cost music -->\n\nNot measured yet." in written
    assert (results / "poems.png").stat().st_size > 10_000 and not (results / "music.png").exists()
    real_data_study.write_page(results, page)
    assert page.read_text() == written


def test_of_melodies_the_page_has_piano_rolls_of_those_that_are_shown(tmp_path):
    results, page = tmp_path / "results", tmp_path / "page.md"
    results.mkdir()
    page.write_text(PAGE)
    run = finished(1)
    for point in (*run["stages"].values(), *(point for curve in run["curves"].values() for point in curve)):
        point |= {"bleu4": 0.5, "self_bleu4": 0.4, "novelty4": 0.1, "mse_nearest": 9.0}
    melody = " ".join(["40 40 0 42"] * 8)
    run["samples"] = (
        [{"sample": melody, "likeness": 0.5}] * 6
        + [{"sample": "no melody", "likeness": 0.1}]
        + [{"sample": "(left out)", "likeness": 0.9}]
    )
    assert list(real_data_study.melodies_of({1: run})) == ["1 to 5", "6 to 6"]
    (results / "music_1.json").write_text(json.dumps(run))
    real_data_study.write_page(results, page)
    assert "![Piano rolls of them](results/music_samples.png)\n\n- 40 40 0 42 40" in page.read_text()
    assert (results / "music_samples.png").stat().st_size > 5_000
    (results / "music_1.json").write_text(json.dumps(run | {"samples": run["samples"][-1:]}))
    (results / "music_samples.png").unlink()
    real_data_study.write_page(results, page)
    assert "- (left out) (0.90)" in page.read_text() and not (results / "music_samples.png").exists()


def test_the_language_models_of_a_discriminator_are_a_part_of_what_a_run_costs():
    run = finished(1)
    assert "language models" not in real_data_study.cost({1: run})
    run["cpu_seconds"]["language_models"] = 180.0
    assert "maximum likelihood 1.0, language models 3.0, the game 2.0. AUC" in real_data_study.cost({1: run})
    run |= {"first_stage": {"nll": 4.25}, "language_models": [{"nll": 4.0}, {"nll": 5.0}]}
    said = "the game 2.0. NLL of validation texts: before the game 4.250, of a language model 4.500 +- 0.707. AUC"
    assert said in real_data_study.cost({1: run})
    run["cpu_seconds"]["game"] = None  # of a run that was resumed within it
    assert "maximum likelihood 1.0, language models 3.0. NLL" in real_data_study.cost({1: run})


def test_what_else_the_paper_compares_has_its_column():
    runs = {seed: finished(seed) for seed in (1, 2)}
    task = dataclasses.replace(real_data_study.TASKS["poems"], also=("copied",))
    table = real_data_study.gains_table(task, runs)
    over_mle = "| bleu2 over MLE | copied over MLE | nll over MLE |"
    assert f"{over_mle} bleu2 of SeqGAN over it | self_bleu2 over MLE of equal bleu2 |" in table
    assert "| 0.1150 +- 0.0071 (p = 0.03) | 0.0000 +- 0.0000 | -0.0115 +- 0.0007 (p = 0.03) |  |" in table


def test_of_speeches_the_nearest_that_may_be_quoted_stands_beside_the_likeness_to_the_nearest_of_all(tmp_path):
    (tmp_path / "free").mkdir()
    (tmp_path / "free" / "train.txt").write_text("we can do it\nall of us " + "and so on " * 20 + "\n")
    pairs = [{"sample": "all of us can", "nearest": "all of us can"}, {"sample": "we do", "nearest": "they do"}]
    said = real_data_study.quotable(pairs, "free", tmp_path)
    assert said[0]["likeness"] == 1.0 and said[1]["likeness"] == pytest.approx(2 * 1 / (3 + 3))
    assert said[0]["sample"] == "(left out)" and said[0]["nearest"].startswith("all of us")
    assert len(said[0]["nearest"].split()) == real_data_study.NUM_READ
    assert said[1]["nearest"] == "we can do it"
    assert real_data_study.quotable(pairs[1:], "", tmp_path) == [{"sample": "we do", "likeness": said[1]["likeness"]}]
    assert real_data_study.quotable(pairs[:1], "all", tmp_path)[0]["nearest"] == "all of us can"


def test_what_a_seed_lacks_is_said_and_the_others_are_shown(tmp_path):
    runs = {seed: finished(seed, matched=seed > 1) for seed in (1, 2, 3)}
    assert "| MLE, matched temperature (2 of 3 seeds) | 0.800 +- 0.000 |" in real_data_study.stages_table(runs)
    table = real_data_study.gains_table(real_data_study.TASKS["poems"], runs)
    assert "| -0.0025 +- 0.0007 (p = 0.1) (2 of 3 seeds) |" in table
    table = real_data_study.gains_table(real_data_study.TASKS["poems"], {1: finished(1, matched=False)})
    assert "| no such temperature | no such temperature | no such temperature |" in table


def test_a_seed_whose_samples_are_silent_does_not_hide_the_others(tmp_path):
    runs = {seed: finished(seed) for seed in (1, 2)}
    for point in (runs[1]["stages"]["SeqGAN"], runs[1]["stages"]["MLE"], runs[2]["stages"]["MLE"]):
        point["mse_nearest"] = 5.0
    task = dataclasses.replace(real_data_study.TASKS["poems"], also=("mse_nearest",))
    assert "| 5.000 (1 of 2 seeds) |" in real_data_study.stages_table(runs)
    assert "| 0.0000 (1 of 2 seeds) |" in real_data_study.gains_table(task, runs)
    real_data_study.draw(task, runs, tmp_path / "music.png")


def test_a_sample_that_quotes_what_may_not_be_quoted_is_left_out(tmp_path):
    pairs = [{"sample": "1 2 3 4 5 6", "nearest": "1 2 3 4 5 7"}, {"sample": "9 8 1", "nearest": "1 2"}]
    assert [pair["sample"] for pair in real_data_study.quotable(pairs, "", tmp_path)] == ["(left out)", "9 8 1"]
    assert real_data_study.quotable(pairs, "all", tmp_path)[0]["sample"] == "1 2 3 4 5 6"


def test_a_real_run_leaves_its_small_file_and_real_texts_only_where_they_may_be_quoted(tmp_path, monkeypatch, capsys):
    bundled = {"quatrains5": "sample_quatrains", "nottingham/len32_0.4s": "sample_melodies"}
    for folder, name in bundled.items():
        lines = (ROOT / "recipes" / "data" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        (tmp_path / folder).mkdir(parents=True)
        for split, part in (("train", lines[:60]), ("validation", lines[60:80]), ("test", lines[80:100])):
            (tmp_path / folder / f"{split}.txt").write_text("\n".join(part) + "\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    where = ["--data", str(tmp_path), "--work", str(tmp_path / "work"), "--results", str(tmp_path / "results")]
    flags = ["--only", "poems", "music", "--seeds", "1", "--workers", "2", "--page", str(page)]
    monkeypatch.setattr(sys, "argv", ["real_data_study.py", *where, *flags, *QUICK])
    monkeypatch.setattr(real_data_study, "CONTROLS", ("shuffled",))
    real_data_study.main()
    poems, music = (json.loads((tmp_path / "results" / f"{name}_1.json").read_text()) for name in ("poems", "music"))
    assert "SeqGAN, reward shuffled" in poems["stages"]
    assert poems["samples"][0]["nearest"] and set(music["samples"][0]) == {"sample", "likeness"}
    assert "samples" not in poems["curves"]["MLE"][0] and poems["wall_seconds"] > 0
    capsys.readouterr()
    real_data_study.main()
    assert "begins" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--data FOLDER is needed: where the data sets are. Or pass --page_only."),
        (
            ["--data", "no", "--page", __file__, "--results", "none", "--only", "poems"],
            "no/quatrains5 has no train.txt: put the data set there, or leave it out by --only.",
        ),
        (
            ["--data", "here", "--page", "no.md"],
            "There is no page no.md to write the tables into. Pass one with their",
        ),
    ],
)
def test_what_a_study_needs_is_asked_for_before_it_begins(flags, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["real_data_study.py", *flags])
    with pytest.raises(SystemExit):
        real_data_study.main()
    assert message in " ".join(capsys.readouterr().err.split())


def test_seeds_on_other_texts_are_not_averaged(tmp_path):
    for seed in (1, 2):
        (tmp_path / f"poems_{seed}.json").write_text(json.dumps(finished(seed) | {"texts": f"digest {seed}"}))
    with pytest.raises(ValueError, match=r"The seeds 1 and 2 of poems were run on different texts\. Remove"):
        real_data_study.read(tmp_path)


@pytest.mark.parametrize(
    ("settings", "differ"),
    [({"max_steps": 1}, "max_steps 80 and 1"), ({"max_steps": 80, "dropout": 0.1}, "dropout 'not said' and 0.1")],
)
def test_seeds_with_other_settings_are_not_averaged(tmp_path, settings, differ):
    other = finished(2) | {"settings": {"seed": 2, **settings}}
    for seed, run in ((1, finished(1)), (2, other)):
        (tmp_path / f"poems_{seed}.json").write_text(json.dumps(run))
    message = f"The seeds 1 and 2 of poems were run with different settings: {differ}. Remove the file of one"
    with pytest.raises(ValueError, match=message):
        real_data_study.read(tmp_path)
