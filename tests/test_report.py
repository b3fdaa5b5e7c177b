"""The report of a run: one page that holds all it shows, in which every text stays text."""

import copy
import html
import itertools
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from conftest import SENTENCES
from datasets import Dataset
from test_trainer import config, texts

from seqgan_hf import LSTMConfig, LSTMForCausalLM, SeqGANTrainer, TextCNNConfig, TextCNNForSequenceClassification
from seqgan_hf.arguments import TextRecipeArguments
from seqgan_hf.callbacks import write_completions
from seqgan_hf.cli import main
from seqgan_hf.remarks import checks_of, in_short
from seqgan_hf.report import Findings, Run, Token, Verdict, ask_networks, read_run, settings_that_matter
from seqgan_hf.report_page import in_pieces, shade, write_report

HOSTILE = (
    "<script>alert('x')</script> & \"quoted\" <img src=http://evil.example/x.png onerror=alert(1)> `*_[a](b)\u202e"
)


def history(**last):
    first = {"step": 1, "loss": 0.1, "entropy": 3.0, "eval_nll": 4.0, "reward/mean": 0.5}
    return [first, first | {"step": 2} | last]


def a_run(folder, **fields):
    return Run(**({"name": "run", "folder": folder, "settings": {}, "history": history()} | fields))


class Page(HTMLParser):
    """Collects what a page would ask for, what runs in it, and what a reader meets."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.asks, self.text, self.headings = [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        self.headings += [int(tag[1])] if re.fullmatch(r"h\d", tag) else []
        self.asks += [value for name, value in attributes.items() if name in ("src", "href", "data", "action")]

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def played(_tokenizer, tmp_path_factory):
    """The folder of a short game of sentences, with two checkpoints."""
    tokenizer = copy.deepcopy(_tokenizer)
    generator = LSTMForCausalLM(
        LSTMConfig(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    )
    judge = TextCNNForSequenceClassification(
        TextCNNConfig(
            vocab_size=len(tokenizer), filter_sizes=(2,), num_filters=(4,), pad_token_id=tokenizer.pad_token_id
        )
    )
    args = config(
        tmp_path_factory.mktemp("played"), max_steps=2, save_strategy="steps", save_steps=1, max_completion_length=12,
        seed=3,
    )  # fmt: skip
    dataset = Dataset.from_dict({"text": SENTENCES * 11})
    trainer = SeqGANTrainer(generator, judge, args, train_dataset=dataset, processing_class=tokenizer)
    trainer.train()
    trainer.save_model()
    return Path(args.output_dir)


@pytest.fixture
def game(played, tmp_path):
    """A copy of it, to be changed."""
    return Path(shutil.copytree(played, tmp_path / "run"))


def test_each_stage_writes_from_the_same_random_numbers(game):
    found = ask_networks(read_run(game), 2, seed=5)
    assert list(found.over_training) == ["update 1", "the end (update 2)"]
    assert all(len(texts) == 2 for texts in found.over_training.values())
    again = ask_networks(read_run(game), 2, seed=5)
    assert again == found


def test_verdicts_are_the_discriminator_s_and_their_tokens_spell_the_text(game, tokenizer):
    found = ask_networks(read_run(game), 2, seed=5)
    scores = [verdict.score for verdict in [*found.convincing, *found.unconvincing[::-1]]]
    assert scores == sorted(scores, reverse=True) and len(scores) == 4
    for verdict in found.convincing + found.unconvincing:
        assert 1 <= len(verdict.tokens) <= 12
        assert all(0 <= token.reward <= 1 for token in verdict.tokens)
        # The reward of the last token is the verdict on the whole.
        assert verdict.tokens[-1].reward == pytest.approx(verdict.score, abs=1e-5)
    spelt = "".join(token.text for token in found.convincing[0].tokens)
    ids = tokenizer(spelt.removesuffix(" [end]"), add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == spelt.removesuffix(" [end]")


def test_a_run_of_ids_needs_no_tokenizer(tiny_model, tmp_path):
    trainer = SeqGANTrainer(tiny_model("lstm"), tiny_model("cnn"), config(tmp_path), train_dataset=texts())
    trainer.train()
    trainer.save_model()
    found = ask_networks(read_run(trainer.args.output_dir), 1, 0)
    (text,) = found.over_training["the end (update 1)"]
    assert re.fullmatch(r"[\d ]+", text) and re.fullmatch(r"\d+ ", found.convincing[0].tokens[0].text)


def test_the_command_writes_a_page_that_asks_for_nothing(game, tmp_path, capsys):
    main(["report", str(game), "-o", str(tmp_path / "page" / "report.html"), "-n", "2"])
    page = (tmp_path / "page" / "report.html").read_text(encoding="utf-8")
    assert f"Report: {tmp_path / 'page' / 'report.html'}" in capsys.readouterr().out
    read = Page(page)
    assert all(asked.startswith(("data:image/png;base64,", "#")) for asked in read.asks)
    assert not {"script", "link", "iframe", "form"} & {tag for tag, _ in read.tags}
    assert not any(name.startswith("on") for _, attributes in read.tags for name in attributes)
    (policy,) = [
        attributes["content"] for tag, attributes in read.tags if "Content-Security-Policy" in attributes.values()
    ]
    assert policy.startswith("default-src 'none'")
    images = [attributes for tag, attributes in read.tags if tag == "img"]
    assert images and all(len(image["alt"]) > 40 and int(image["width"]) > 300 for image in images)
    anchors = {attributes["id"] for _, attributes in read.tags if "id" in attributes}
    assert {asked[1:] for asked in read.asks if asked.startswith("#")} <= anchors
    assert len(page) < 5e6 and (tmp_path / "page" / "report_reward.png").is_file()


def test_whatever_stands_in_a_text_stays_text(tmp_path):
    run = a_run(
        tmp_path, name=HOSTILE, settings={"output": HOSTILE}, nearest=[{"sample": HOSTILE, "nearest": HOSTILE}],
        stages={HOSTILE: {HOSTILE: 1.0}},
    )  # fmt: skip
    verdict = Verdict(0.5, [Token(HOSTILE, 0.2), Token("", 1.0)])
    write_report([run], [Findings({HOSTILE: [HOSTILE]}, [verdict], [verdict])], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    read = Page(page)
    assert not {tag for tag, _ in read.tags} & {"script"} and {tag for tag, _ in read.tags if tag == "img"} <= {"img"}
    assert all(asked.startswith(("data:", "#")) for asked in read.asks)
    assert read.text.count("<script>alert('x')</script>") >= 8
    assert html.escape("<img src=http://evil", quote=False) in page


def test_runs_stand_side_by_side(tmp_path):
    curve = [
        {"temperature": 1.0, "NLL_oracle": 9.0, "NLL_test": 7.0},
        {"temperature": 0.8, "NLL_oracle": 8.5, "NLL_test": 7.4},
    ]
    runs = [
        a_run(tmp_path / "a" / "run", settings={"reward": "logit", "beta": 0.1, "seed": 1}, curves={"MLE": curve}),
        a_run(tmp_path / "b" / "run", settings={"reward": "logit", "beta": 0.2}, curves={"SeqGAN": curve}),
    ]
    assert settings_that_matter(runs) == {"beta": [0.1, 0.2], "seed": [1, None]}
    read = Page(write_report(runs, [Findings(), Findings()], tmp_path / "both.html").read_text(encoding="utf-8"))
    assert "a/run" in read.text and "b/run" in read.text
    plane, *curves = [attributes["alt"] for tag, attributes in read.tags if tag == "img"]
    assert "a/run: MLE: NLL_oracle 9 at NLL_test 7." in plane
    assert curves == [
        "Reward of a token, over the updates. a/run: mean 0.5 to 0.5. b/run: mean 0.5 to 0.5.",
        "Entropy of the generator, nats per token, over the updates. a/run: entropy 3 to 3. b/run: entropy 3 to 3.",
        "Negative log-likelihood, nats per token, over the updates. a/run: NLL, held out 4 to 4. b/run: NLL, held out 4 "
        "to 4.",
    ]


def test_runs_of_one_name_and_place_are_numbered(tmp_path):
    runs = [a_run(tmp_path / place / "obama" / "run") for place in ("a", "b")]
    read = Page(write_report(runs, [Findings(), Findings()], tmp_path / "both.html").read_text(encoding="utf-8"))
    assert "1: obama/run" in read.text and "2: obama/run" in read.text


def test_conversations_are_not_judged_on_prompts_that_they_never_had(game, tokenizer, caplog):
    tokenizer.chat_template = "{{ messages }}"
    tokenizer.save_pretrained(game)
    rows = [{"step": 1, "prompt": "we open", "completion": "x", "score": 0.5}]
    write_completions(rows, game / "completions" / "completions_00001.parquet")
    assert ask_networks(read_run(game), 1, 0) == Findings()
    assert "the kept prompts of conversations lack the markers of their template" in caplog.text


def test_of_one_run_the_settings_that_are_not_the_defaults_stand_there(tmp_path):
    defaults = TextRecipeArguments("texts")
    of_recipe = {"vocab_size": 4001, "mle_patience": defaults.mle_patience, "temperatures": [0.9, 1.0]}
    run = a_run(tmp_path, settings={"reward": "probability", "beta": 0.5, "made_up": 1, **of_recipe})
    assert settings_that_matter([run]) == {
        "beta": [0.5], "made_up": [1], "vocab_size": [4001], "temperatures": [[0.9, 1.0]]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("last", "fields", "word"),
    [
        ({"entropy": 0.2}, {}, "From update 2 on the generator's entropy is under a tenth"),
        ({"discriminator/held_out_accuracy": 0.995}, {}, "From update 2 on the discriminator is right on 99 %"),
        ({"discriminator/held_out_auc": 0.3}, {}, "has memorised its real texts"),
        ({"eval_nll": 4.5}, {}, "Held-out texts became less likely, 4.000 to 4.500"),
        (
            {},
            {"stages": {"SeqGAN": {"copied": 0.4}, "real texts": {"copied": 0.1}}},
            "40% of the samples stand in the",
        ),
        (
            {},
            {"stages": {"SeqGAN": {"copied": 0.01}, "SeqGAN, temperature 0.6": {"copied": 0.3}}},
            "30% of the samples stand in the",
        ),
    ],
)
def test_what_strikes_is_said(last, fields, word, tmp_path):
    assert not any(checks_of(a_run(tmp_path)).values())
    (warning,) = filter(None, checks_of(a_run(tmp_path, history=history(**last), **fields)).values())
    assert word in warning


def test_what_passed_again_is_not_said_to_last(tmp_path):
    entries = [{"step": step, "discriminator/held_out_accuracy": right} for step, right in enumerate((0.6, 0.99, 0.7))]
    said = checks_of(a_run(tmp_path, history=entries))["a discriminator that is always right"]
    assert said.startswith("At 1 of 3 logs, first at update 1, the discriminator is right on 99 %")


def test_a_gain_is_set_against_a_colder_generator_and_the_controls(tmp_path):
    def curve(*points):
        names = ("temperature", "bleu3", "self_bleu3")
        return [dict(zip(names, point, strict=True)) for point in points]

    curves = {
        "MLE": curve((1.0, 0.2, 0.1), (0.8, 0.4, 0.5)),
        "SeqGAN, reward shuffled": curve((1.0, 0.22, 0.12)),
        "SeqGAN": curve((1.0, 0.3, 0.25)),
    }
    likelihoods, area, quality, rival, control, caution = in_short(
        a_run(tmp_path, history=history(**{"discriminator/held_out_auc": 0.7}), curves=curves)
    )
    assert "4.000 when first measured, 4.000 at the end" in likelihoods and "0.70 on average" in area
    assert quality == "Quality, BLEU-3 (higher is better): 0.200 after maximum likelihood, 0.300 after SeqGAN."
    # Half way to temperature 0.8, and so half way in self-BLEU.
    assert "at a temperature of 0.90 the generator before the game has the same BLEU-3" in rival
    assert rival.endswith("is 0.300, and SeqGAN's is 0.250: SeqGAN is ahead by 0.050.")
    assert "the reward shuffled: BLEU-3 0.220, self-BLEU-3 0.120." in control
    assert "one run" in caution
    curves["SeqGAN"] = curve((1.0, 0.5, 0.25))
    assert in_short(a_run(tmp_path, curves=curves))[2].startswith("No temperature that was measured")


def test_a_control_has_the_beginning_and_the_settings_of_its_game(game):
    (game / "metrics.json").write_text(json.dumps({"settings": {"vocab_size": 300, "reward_control": "none"}}))
    shutil.copytree(game / "checkpoint-1", game / "mle")
    control = game / "control_shuffled"
    shutil.copytree(game / "checkpoint-1", control / "checkpoint-1")
    arguments = control / "checkpoint-1" / "training_args.json"
    arguments.write_text(json.dumps(json.loads(arguments.read_text()) | {"reward_control": "shuffled"}))
    runs = [read_run(game), read_run(control)]
    assert settings_that_matter(runs) == {"reward_control": ["none", "shuffled"]}
    beginnings = [ask_networks(run, 1, 5).over_training["maximum likelihood"] for run in runs]
    assert beginnings[0] == beginnings[1]


def test_the_settings_of_a_run_name_no_place(game):
    settings = read_run(game).settings
    assert settings["max_completion_length"] == 12
    assert not {"output_dir", "hub_token"} & set(settings)


def test_what_two_texts_share_is_found():
    pieces = in_pieces("we open the new doors", "we close the doors")
    assert [piece for piece, is_shared in pieces if is_shared] == ["we", "the", "doors"]
    assert "".join(piece for piece, _ in pieces) == "we open the new doors"
    assert in_pieces("春眠不", "春曉不") == [("春", True), ("眠", False), ("不", True)]
    assert in_pieces("", "we") == [] and in_pieces("we", "") == [("we", False)]


@pytest.mark.parametrize("number", [1, 2])
def test_headings_are_in_order(number, tmp_path):
    verdict = Verdict(0.5, [Token("we", 0.2)])
    runs = [a_run(tmp_path / f"{index}", name=f"{index}") for index in range(number)]
    findings = [Findings({"the end": ["we"]}, [verdict], [verdict])] * number
    headings = Page(write_report(runs, findings, tmp_path / "report.html").read_text(encoding="utf-8")).headings
    assert headings[0] == 1 and len(headings) > 5
    assert all(below <= above + 1 for above, below in itertools.pairwise(headings))


def test_the_colours_of_rewards_can_be_told_apart_and_read_on():
    assert (shade(0.0), shade(0.5), shade(1.0)) == ("#f4a560", "#ffffff", "#87bef0")
    for reward in torch.linspace(0, 1, 11).tolist():
        parts = [int(shade(reward)[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        text = 0.0103  # of #1a1a1a
        assert (luminance + 0.05) / (text + 0.05) > 7, "WCAG AAA"


def test_what_is_no_run_is_refused(tmp_path, capsys):
    for arguments, said in (
        (["report", str(tmp_path / "none")], "There is no folder"),
        (["report", str(tmp_path)], "There is nothing to plot in"),
        (["report", str(tmp_path), "-n", "0"], "`--num_samples` must be at least 1; got 0."),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert said in capsys.readouterr().err
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": history()}))
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(ValueError, match=r"metrics\.json is no JSON: .* Remove it, or run the recipe to its end\."):
        read_run(tmp_path)


def test_the_page_without_networks_shows_what_was_logged(tmp_path, capsys):
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": history()}))
    main(["report", str(tmp_path), "--read_only"])
    read = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "Learning curves" in read.text and "Samples over training" not in read.text
    assert "Nothing. Looked for: a generator that collapses; held-out texts that become less likely." in read.text
    # What has no figures is no good news.
    assert "no figures for it: a discriminator that is always right; a discriminator that knows" in read.text
