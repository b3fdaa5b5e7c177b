"""What is judged, and in which order; and how a trial is made of models and real texts."""

import dataclasses
import json
import wave
from collections import Counter

import pytest
from conftest import SENTENCES
from test_cli import generator, pair, refused, run, speeches  # noqa: F401  (fixtures)

from seqgan_hf import LSTMConfig, LSTMForCausalLM
from seqgan_hf.cli import main
from seqgan_hf.completions import one_line
from seqgan_hf.tokenization import train_tokenizer
from seqgan_hf.tones import melody_to_wav
from seqgan_hf.trial import REAL, Item, Trial, load_trial
from seqgan_hf.trial_making import in_verses, keys_of, open_trial, tidy
from seqgan_hf.turing import take_test
from seqgan_hf.votes import Votes

MODELS = ("MLE", "SeqGAN", "rival")


def a_trial(blocks=5, models=MODELS, text=lambda source, block: f"{block} words of nobody"):
    """A trial of `blocks` items of each source, D of SeqGAN surer of the later ones."""
    items = {}
    for number, source in enumerate((REAL, *models)):
        for block in range(blocks):
            id = f"{(37 * (number + 4 * block)) % 4093:016x}"
            score = (block + number / 10 + 0.5) / (blocks + 1)
            scores = {"SeqGAN": score} if "SeqGAN" in models else {}
            items[id] = Item(id, block, text(source, block), source=source, scores=scores)
    return Trial("text", 3, items, models, {"items": blocks})


def test_each_judge_sees_every_item_once_in_an_order_of_his_own():
    trial = a_trial()
    orders = [trial.order_for(f"judge {number}") for number in range(20)]
    assert all(sorted(order) == sorted(trial.items) for order in orders)
    assert len(set(map(tuple, orders))) == 20
    assert trial.order_for("judge 0") == orders[0]
    assert len({order[0] for order in orders}) > 8


def test_whoever_stops_early_has_judged_each_source_as_often():
    trial = a_trial()
    for judge in "abc":
        order = trial.order_for(judge)
        for seen in range(1, len(order) + 1):
            counts = Counter(trial.items[id].source for id in order[:seen])
            assert max(counts.values()) - min(counts[source] for source in trial.sources) <= 1
        firsts = Counter(trial.items[trial.order_for(f"{judge}{n}")[0]].source for n in range(200))
        assert all(25 <= firsts[source] <= 80 for source in trial.sources), "no source comes first"


def test_a_trial_is_read_as_it_was_written(tmp_path):
    trial = a_trial()
    (tmp_path / "trial.json").write_text(trial.as_json(), encoding="utf-8")
    assert load_trial(tmp_path) == trial


def test_a_blind_trial_tells_no_source_and_has_the_same_order():
    trial = a_trial()
    told = trial.blind().as_json()
    assert not any(word in told for word in ("MLE", "SeqGAN", "rival", "0.9", '"real"'))
    assert trial.blind().order_for("x") == trial.order_for("x")
    key = {id: item.source for id, item in trial.items.items()}
    assert Counter(item.source for item in trial.blind().with_sources(key).items.values()) == Counter(key.values())
    key.popitem()
    with pytest.raises(ValueError, match=r"must name the source of each of the 20 items, and of no other; it has 19"):
        trial.blind().with_sources(key)


@pytest.mark.parametrize("content", ["{", "[]", '{"kind": "text"}', '{"items": [{"id": 1}], "kind": "", "seed": 1}'])
def test_what_is_no_trial_is_refused(content, tmp_path):
    with pytest.raises(ValueError, match=r"There is no .*trial\.json\. Pass the folder of a trial"):
        load_trial(tmp_path)
    (tmp_path / "trial.json").write_text(content)
    with pytest.raises(ValueError, match=r"trial\.json is no trial: "):
        load_trial(tmp_path)


# ---- How one is made ---------------------------------------------------------------------------------------------


def test_the_texts_of_all_sources_have_one_form(pair, speeches, run, tmp_path):  # noqa: F811
    folder = tmp_path / "judge"
    argv = ["--model", pair, "--model", pair, "--labels", "MLE", "SeqGAN", "--dataset_name", speeches, "--items", 4]
    argv += ["--max_completion_length", 6, "--output_dir", folder]
    said = run("judge", *argv, "--export-space", tmp_path / "space")
    assert f"The trial is in {folder}: 12 items of real, MLE, SeqGAN." in said
    trial = load_trial(folder)
    assert Counter(item.source for item in trial.items.values()) == {"real": 4, "MLE": 4, "SeqGAN": 4}
    assert Counter(item.block for item in trial.items.values()) == {0: 3, 1: 3, 2: 3, 3: 3}
    lines = [f"{text} test" for text in SENTENCES]
    for item in trial.items.values():
        assert item.text == item.text.strip()
        if item.source == REAL:
            (whole,) = [line for line in lines if line.startswith(item.text)]
            assert len(item.text) < len(whole), "cut at 6 tokens, as a model must stop there"
        # D was saved with both, and it is the same.
        assert item.scores["MLE"] == item.scores["SeqGAN"] and 0 < item.scores["MLE"] < 1
    texts = {source: [i.text for i in trial.items.values() if i.source == source] for source in trial.sources}
    assert texts["MLE"] != texts["SeqGAN"], "each model has random numbers of its own"


def test_the_same_texts_come_again_under_other_names(pair, speeches, run, tmp_path):  # noqa: F811
    trials = []
    for name in "ab":
        argv = ["--model", pair, "--dataset_name", speeches, "--items", 3, "--output_dir", tmp_path / name]
        run("judge", *argv, "--export-space", tmp_path / f"space_{name}")
        trials.append(load_trial(tmp_path / name))
    first, second = ({(i.text, i.source, *i.scores.values()) for i in trial.items.values()} for trial in trials)
    assert first == second
    assert not set(trials[0].items) & set(trials[1].items), "an id that the seed decides would tell the source"


def test_a_folder_goes_on_with_its_trial_and_refuses_other_settings(pair, speeches, run, refused, tmp_path):  # noqa: F811
    folder, space = tmp_path / "judge", tmp_path / "space"
    argv = ["judge", "--model", pair, "--dataset_name", speeches, "--items", 3, "--output_dir", folder]
    run(*argv, "--export-space", space)
    before = (folder / "trial.json").read_bytes()
    for again in (argv, ["judge", "--output_dir", folder]):
        assert f"Going on with the trial in {folder}: 6 items." in run(*again, "--export-space", space)
    refused(
        f"seqgan-hf judge: The trial in {folder} was made with `temperature` 1.0 and not 0.9. Choose another "
        "`--output_dir`, or leave the settings out to go on with it.",
        *argv, "--temperature", 0.9,
    )  # fmt: skip
    assert (folder / "trial.json").read_bytes() == before
    (folder / "trial.json").unlink()
    Votes(folder / "votes.sqlite").close()
    refused(
        f"seqgan-hf judge: {folder} has votes, and the trial that they belong to is gone. Choose another "
        "`--output_dir`.",
        *argv,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--output_dir", "none"],
            "There is no trial in none, so that one is to be made: name a model by `--model`, and real texts that it "
            "was not trained on by `--dataset_name`.",
        ),
        (["--items", "0"], "`items` must be at least 1; got 0."),
        (["--port", "70000"], "`port` must be from 0 to 65535; got 70000."),
        (["--kind", "song"], None),
        (
            ["--model", "a", "--model=b", "--labels", "a"],
            "`labels` must name each model: 2 of them; got 1. Leave them out to have the models' last names.",
        ),
        (["--model", "a", "--labels", "real"], "`labels` must differ, and none be `real`; got real."),
        (["--results", "none"], "There is no none/trial.json. Pass the folder of a trial, the `--output_dir` of "
                                "`seqgan-hf judge`."),
        (["--add_votes", "x.csv"], "`add_votes` adds to the votes of a trial: name its folder by `--results`."),
    ],
)  # fmt: skip
def test_wrong_commands_are_one_sentence(argv, message, refused, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    if message is None:
        with pytest.raises(SystemExit) as stop:
            main(["judge", *argv])
        assert stop.value.code == 2 and "invalid choice: 'song'" in capsys.readouterr().err
    else:
        refused(f"seqgan-hf judge: {message}", "judge", *argv)


def test_too_few_real_texts_are_refused(pair, speeches, refused, tmp_path):  # noqa: F811
    refused(
        f"seqgan-hf judge: `{speeches}` has 10 texts to judge, and 11 are asked for. Lower `--items`, or give more "
        "texts.",
        "judge", "--model", pair, "--dataset_name", speeches, "--items", 11, "--output_dir", tmp_path / "j",
    )  # fmt: skip


def test_two_models_of_one_name_are_numbered(pair, tmp_path):  # noqa: F811
    from seqgan_hf.trial_making import _labels

    assert _labels(["a/b/run", "run"]) == ["1: run", "2: run"]
    assert _labels(["org/one", "real"]) == ["one", "2: real"]


def test_prompts_differ_from_source_to_source(pair, run, tmp_path):  # noqa: F811
    rows = [json.dumps({"prompt": f"{text} ", "completion": "we work"}) for text in SENTENCES]
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows))
    argv = ["--model", pair, "--dataset_name", tmp_path / "pairs.jsonl", "--split", "train", "--items", 4]
    run("judge", *argv, "--output_dir", tmp_path / "j", "--export-space", tmp_path / "space")
    items = load_trial(tmp_path / "j").items.values()
    assert len({item.prompt for item in items}) == 8 and {item.prompt for item in items} <= set(SENTENCES)
    assert {item.text for item in items if item.source == REAL} == {"we work"}


def test_models_of_other_tokenizers_judge_each_other_s_texts(pair, speeches, run, tmp_path):  # noqa: F811
    texts = [f"{text} test" for text in SENTENCES]
    save_characters(texts, 30, tmp_path / "letters")
    argv = ["--model", tmp_path / "letters", "--model", pair, "--dataset_name", speeches, "--items", 4]
    run("judge", *argv, "--output_dir", tmp_path / "j", "--export-space", tmp_path / "space")
    items = load_trial(tmp_path / "j").items.values()
    assert {item.source for item in items} == {REAL, "letters", "pair"}
    for item in items:
        assert set(item.scores) == {"pair"} and 0 < item.scores["pair"] < 1
        if item.source == REAL:
            assert any(text.startswith(item.text) for text in texts) and len(item.text) <= 30


def test_a_text_has_no_space_around_it_and_no_control_characters():
    assert tidy(" a\x1b[31m  \r\n\tb\u00a0c \n\n") == "a\ufffd[31m\n\tb\u00a0c"
    assert tidy("<b>&amp; *x*") == "<b>&amp; *x*"


# ---- Poems and music ---------------------------------------------------------------------------------------------


def save_characters(texts, length, folder):
    tokenizer = train_tokenizer(texts, 200, "character", ends=False)
    model = LSTMForCausalLM(LSTMConfig(vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id, pad_token_id=0))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "training_args.json").write_text(json.dumps({"max_completion_length": length}))


@pytest.mark.parametrize(("length", "verse"), [(20, 5), (28, 7)])
def test_poems_are_shown_in_verses_without_marks(length, verse, run, tmp_path):  # noqa: F811
    characters = "".join(chr(0x4E00 + number) for number in range(40))
    poems = [characters[start : start + length] for start in range(8)]
    comma, stop = "\N{FULLWIDTH COMMA}", "\N{IDEOGRAPHIC FULL STOP}"
    written = [f"{poem[:verse]}{comma}{poem[verse:]}{stop}" for poem in poems]
    (tmp_path / "poems.txt").write_text("\n".join(written), encoding="utf-8")
    save_characters(poems, length, tmp_path / "model")
    argv = ["--model", tmp_path / "model", "--dataset_name", tmp_path / "poems.txt", "--split", "train", "--items", 5]
    run("judge", *argv, "--kind", "poem", "--output_dir", tmp_path / "j", "--export-space", tmp_path / "space")
    for item in load_trial(tmp_path / "j").items.values():
        lines = item.text.split("\n")
        if item.source == REAL:
            assert "".join(lines) in poems and [len(line) for line in lines] == [verse] * 4
        assert all(len(line) == verse for line in lines[:-1]) and not set(item.text) & {comma, stop, " "}
    assert in_verses("abcdefg", 5) == "abcde\nfg"


def test_melodies_can_be_heard_and_seen_and_read(run, tmp_path):  # noqa: F811
    tunes = ["40 40 42 0", "44 44 45 47", "1 88 0 0", "52 50 49 47"]
    (tmp_path / "tunes.txt").write_text("\n".join(tunes))
    tokenizer = train_tokenizer(tunes, 100, "word", ends=False)
    LSTMForCausalLM(LSTMConfig(vocab_size=len(tokenizer), bos_token_id=1, pad_token_id=0)).save_pretrained(
        tmp_path / "model"
    )
    tokenizer.save_pretrained(tmp_path / "model")
    argv = ["--model", tmp_path / "model", "--dataset_name", tmp_path / "tunes.txt", "--split", "train", "--items", 2]
    argv += ["--kind", "music", "--max_completion_length", 4, "--output_dir", tmp_path / "j"]
    run("judge", *argv, "--export-space", tmp_path / "space")
    items = load_trial(tmp_path / "j").items
    assert sum(item.text.startswith("4 steps of 0.4 seconds: ") for item in items.values()) >= 2
    media = sorted(path.name for path in (tmp_path / "space" / "media").iterdir())
    assert media == sorted(f"{id}{ending}" for id in items for ending in (".wav", ".png"))
    changed = [(tmp_path / "j" / "media" / f"{id}.wav").stat().st_mtime_ns for id in sorted(items)]
    assert changed == sorted(changed), "the time of a file would tell its source"
    with wave.open(str(tmp_path / "j" / "media" / f"{min(items)}.wav")) as sound:
        assert sound.getframerate() == 11025 and sound.getnframes() == pytest.approx(1.6 * 11025, abs=20000)


def test_a_tone_has_its_pitch_and_a_rest_is_silent():
    import io

    import numpy as np

    with wave.open(io.BytesIO(melody_to_wav([49, 49, 0, 37]))) as sound:  # A4, a rest, A3
        samples = np.frombuffer(sound.readframes(sound.getnframes()), dtype="<i2").astype(float)
    assert len(samples) == 17640  # 1.6 seconds
    for start, end, pitch in ((0, 8820, 440), (13230, 17640, 220)):
        spectrum = np.abs(np.fft.rfft(samples[start:end]))
        assert spectrum.argmax() * 11025 / (end - start) == pytest.approx(pitch, abs=3)
    assert np.abs(samples[8820:13230]).max() == 0 and 10_000 < np.abs(samples).max() <= 32767
    assert keys_of("40 x 99 -1 0 7") == [40, 0, 7] and keys_of("no key") == [0]


# ---- The terminal --------------------------------------------------------------------------------------------------


def test_a_person_takes_the_test_by_piped_keys(pair, speeches, capsys, tmp_path, monkeypatch):  # noqa: F811
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("r\ng\nx R g r\nrrrr rrrr"))
    main(["turing", "--model", pair, "--dataset_name", speeches, "--output_dir", str(tmp_path / "t")])
    said = capsys.readouterr().out
    trial = load_trial(tmp_path / "t")
    with Votes(tmp_path / "t" / "votes.sqlite") as votes:
        cast = votes.all()
    assert len(cast) == 10 and len({vote.judge for vote in cast}) == 1
    assert [vote.judged_real for vote in cast] == [True, False, True, False, True, True, True, True, True, True]
    assert Counter(trial.items[vote.item].source for vote in cast) == {"real": 5, "pair": 5}
    right = sum(vote.judged_real == (trial.items[vote.item].source == REAL) for vote in cast)
    assert f"You were right on {right} of 10, {right / 10:.0%} (95 % interval " in said
    assert "D of pair: P(real) 0." in said
    main(["judge", "--results", str(tmp_path / "t")])
    assert "10 votes of 1 judge:" in capsys.readouterr().out


@pytest.mark.parametrize("ending", ["q", "", "interrupt"])
def test_the_test_ends_politely_with_what_was_judged(ending, tmp_path, capsys):
    class Keys:
        def __init__(self):
            self.keys = iter(["r", "g", *ending[:1] * (ending == "q")])

        def isatty(self):
            return False

        def read(self, _):
            key = next(self.keys, "")
            if key == "" and ending == "interrupt":
                raise KeyboardInterrupt
            return key

    score = take_test(a_trial(), tmp_path, Keys())
    assert "of 2, " in score and score.count("\n") == 3
    assert ("Ended by Ctrl-C." in capsys.readouterr().out) == (ending == "interrupt")
    with Votes(tmp_path / "votes.sqlite") as votes:
        assert len(votes.all()) == 2


def test_nothing_judged_is_said(tmp_path):
    import io

    assert take_test(a_trial(), tmp_path, io.StringIO("")) == "\nNothing was judged."


def test_a_text_in_the_terminal_is_not_obeyed(tmp_path, capsys):
    import io

    trial = a_trial(1, text=lambda *_: "\x1b[2Jx\ny")
    take_test(trial, tmp_path, io.StringIO("q"))
    assert f"  {one_line(chr(27))}[2Jx\n  y\n" in capsys.readouterr().out


def test_the_number_of_items_fits_the_sources(refused):  # noqa: F811
    refused(
        "seqgan-hf turing: `items` must be a multiple of 2, the number of sources, so that each is judged as often; "
        "got 5.",
        "turing", "--model", "a", "--dataset_name", "b", "--items", 5,
    )  # fmt: skip
    refused(
        "seqgan-hf turing: A terminal plays no music. Use `seqgan-hf judge --kind music`.",
        "turing", "--model", "a", "--dataset_name", "b", "--kind", "music",
    )  # fmt: skip


def test_every_argument_has_help():
    from seqgan_hf.arguments import JudgeArguments, TuringArguments

    for arguments in (JudgeArguments, TuringArguments):
        assert all(field.metadata["help"].endswith((".", ")")) for field in dataclasses.fields(arguments))


def test_a_trial_of_the_two_kinds_of_arguments(tmp_path):
    from seqgan_hf.arguments import JudgeArguments

    with pytest.raises(ValueError, match="There is no trial in"):
        open_trial(JudgeArguments(output_dir=str(tmp_path)), 3)
