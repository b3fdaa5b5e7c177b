"""The figures of a blind test are those that scipy finds in the exported votes."""

import csv
import json
import random
from collections import defaultdict
from pathlib import Path

import pytest
from scipy import stats
from test_plots import size_of
from test_trial import a_trial

from seqgan_hf.cli import main
from seqgan_hf.verdicts import verdicts_of, verdicts_table, wilson_interval
from seqgan_hf.votes import Vote, Votes

CHANCES = {"real": 0.7, "MLE": 0.3, "SeqGAN": 0.5, "rival": 0.3}


def votes_of(trial, judges=7, seed=1):
    """Votes of some judges; each begins, and the later ones stop early."""
    chance = random.Random(seed)
    cast = []
    for number in range(judges):
        order = trial.order_for(f"judge {number}")
        for id in order[: len(order) - number]:
            said = chance.random() < CHANCES[trial.items[id].source]
            cast.append(Vote(f"judge {number}", id, said, 1e9 + len(cast)))
    return cast


@pytest.fixture
def judged(tmp_path):
    """A folder with a trial and its votes, as `seqgan-hf judge` leaves it."""
    trial = a_trial(8)
    (tmp_path / "trial.json").write_text(trial.as_json(), encoding="utf-8")
    with Votes(tmp_path / "votes.sqlite") as votes:
        votes.add(votes_of(trial))
    return tmp_path


def test_the_figures_are_those_of_scipy_on_the_exported_csv(judged, capsys):
    main(["judge", "--results", str(judged)])
    printed = capsys.readouterr().out
    results = json.loads((judged / "results.json").read_text())
    with open(judged / "votes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert results["votes"] == len(rows) == 7 * 32 - 21 and results["judges"] == 7
    said, of_judge, of_item, d = defaultdict(list), defaultdict(list), defaultdict(list), {}
    for row in rows:
        for group, key in ((said, row["source"]), (of_judge, (row["source"], row["judge"])),
                           (of_item, (row["source"], row["item"]))):  # fmt: skip
            group[key].append(int(row["judged_real"]))
        d[row["item"]] = float(row["D of SeqGAN"])

    def shares(group, source):
        return [sum(values) / len(values) for key, values in sorted(group.items()) if key[0] == source]

    for source, found in results["sources"].items():
        interval = stats.binomtest(sum(said[source]), len(said[source])).proportion_ci(method="wilson")
        assert (found["votes"], found["judged_real"]) == (len(said[source]), sum(said[source]))
        assert [found["share"], found["low"], found["high"]] == pytest.approx(
            [sum(said[source]) / len(said[source]), interval.low, interval.high]
        )
        over = [d[item] > 0.5 for of, item in of_item if of == source]
        assert found["discriminators"] == {"SeqGAN": pytest.approx(sum(over) / len(over))}
        assert f"{found['share']:5.3f}  {found['low']:.3f} to {found['high']:.3f}" in printed
    assert list(results["tests"]) == ["SeqGAN", "rival"]
    for model, test in results["tests"].items():
        paired = stats.ttest_rel(shares(of_judge, model), shares(of_judge, "MLE"))
        items = stats.ttest_ind(shares(of_item, model), shares(of_item, "MLE"))
        assert test["against"] == "MLE"
        assert (test["over_judges"]["t"], test["over_judges"]["p"]) == pytest.approx(tuple(paired))
        assert (test["over_items"]["t"], test["over_items"]["p"]) == pytest.approx(tuple(items))
        assert f"{model} against MLE, over judges: {test['over_judges']['difference']:+.3f} judged real" in printed
    people = {item: sum(values) / len(values) for (_, item), values in of_item.items()}
    agreement = stats.spearmanr([d[item] for item in people], list(people.values()))
    assert results["agreement"]["SeqGAN"] == pytest.approx(
        {"spearman": agreement.statistic, "p": agreement.pvalue, "items": 32}
    )
    assert size_of(judged / "judged_real.png")[0] > 500


def test_a_difference_by_hand():
    """Ann takes both texts of SeqGAN for real and none of MLE; Bob one of each."""
    trial = a_trial(2, ("MLE", "SeqGAN"))
    ids = {source: [id for id in trial.items if trial.items[id].source == source] for source in trial.sources}
    said = {
        "ann": {"MLE": [False, False], "SeqGAN": [True, True]},
        "bob": {"MLE": [True, False], "SeqGAN": [True, False]},
    }
    votes = [
        Vote(judge, id, real, 0.0)
        for judge, sources in said.items()
        for source, reals in sources.items()
        for id, real in zip(ids[source], reals, strict=True)
    ]
    results = verdicts_of(trial, votes)
    assert results["sources"]["MLE"]["share"] == 0.25 and results["sources"]["SeqGAN"]["share"] == 0.75
    assert results["sources"]["real"] == {
        "votes": 0, "judged_real": 0, "share": None, "low": None, "high": None, "discriminators": {"SeqGAN": 0.0}
    }  # fmt: skip
    assert results["tests"]["SeqGAN"]["over_judges"] == pytest.approx(
        {"difference": 0.5, "t": 1.0, "p": 0.5, "count": 2}
    )
    assert "real        0      0      -               -" in verdicts_table(results)


def test_one_judge_has_no_paired_test_and_equal_votes_none_at_all():
    trial = a_trial(3)
    alone = verdicts_of(trial, votes_of(trial, judges=1))
    assert alone["tests"]["SeqGAN"]["over_judges"] is None
    assert "votes of 1 judge: how many" in verdicts_table(alone)
    always = verdicts_of(trial, [vote._replace(judged_real=True) for vote in votes_of(trial)])
    assert always["tests"]["SeqGAN"] == {"against": "MLE", "over_judges": None, "over_items": None}
    assert always["agreement"] == {"SeqGAN": None}
    assert "no test, as there are too few of them, or all are alike." in verdicts_table(always)


@pytest.mark.parametrize("trials", [1, 10, 400])
def test_the_interval_is_scipy_s(trials):
    for successes in {0, 1, trials // 3, trials}:
        expected = stats.binomtest(successes, trials).proportion_ci(method="wilson")
        assert wilson_interval(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_votes_of_a_space_are_added_once(judged, tmp_path, capsys):
    trial = a_trial(8)
    with Votes(tmp_path / "space.sqlite") as votes:
        votes.cast("zoe", next(iter(trial.items)), True).result()
        Path(tmp_path / "space.csv").write_text(votes.as_csv())
    for new in (1, 0):
        main(["judge", "--results", str(judged), "--add_votes", str(tmp_path / "space.csv")])
        printed = capsys.readouterr().out
        assert f"{new} of 1 votes are new." in printed and "204 votes of 8 judges" in printed
    (tmp_path / "space.csv").write_text("judge,item,judged_real,seconds\nzoe,other,1,1\n")
    with pytest.raises(SystemExit):
        main(["judge", "--results", str(judged), "--add_votes", str(tmp_path / "space.csv")])
    assert "1 votes are on items of another trial. Give the votes of this one." in capsys.readouterr().err


def test_no_votes_are_said(tmp_path, capsys):
    (tmp_path / "trial.json").write_text(a_trial().as_json())
    with pytest.raises(SystemExit):
        main(["judge", "--results", str(tmp_path)])
    assert (
        "Nobody has judged yet. Judge by `seqgan-hf judge`, or add votes by `--add_votes`." in capsys.readouterr().err
    )
