"""Melodies as texts: from MIDI files, in splits that keep a tune together, and measured as music."""

import re
import shutil

import pytest
from datasets import DatasetDict

from seqgan_hf.arguments import TextRecipeArguments
from seqgan_hf.melodies import is_melody, load_melodies, melody_metrics, pieces, write_melodies

UP = " ".join(map(str, range(20, 52)))
DOWN = " ".join(map(str, range(60, 28, -1)))


@pytest.fixture
def tunes(tmp_path):
    """Sixty files of a tune each: two pieces of its own and a shorter end."""
    pytest.importorskip("mido")
    from seqgan_hf.music import save_melodies

    melodies = [
        [1 + number, *range(20, 51), *[50, 0] * 8, *range(20, 35), 1 + number, 40, 40, 40] for number in range(60)
    ]
    save_melodies(melodies, tmp_path / "MIDI" / "melody")
    save_melodies([[44, 45] * 20], tmp_path / "MIDI" / "chords")
    return tmp_path / "MIDI"


def test_all_pieces_of_a_file_are_in_one_split(tunes):
    splits = load_melodies(TextRecipeArguments(dataset_name=str(tunes)), seed=1)
    assert isinstance(splits, DatasetDict) and list(splits) == ["train", "validation", "test"]
    by_split = {name: texts["text"] for name, texts in splits.items()}
    firsts = {name: {text.split()[0] for text in texts if text.split()[1] == "20"} for name, texts in by_split.items()}
    lasts = {name: {text.split()[-1] for text in texts if text.split()[1] == "0"} for name, texts in by_split.items()}
    assert firsts == lasts and sum(map(len, firsts.values())) == 60
    assert all(is_melody(text) for texts in by_split.values() for text in texts)
    assert [len(firsts[name]) > 0 for name in by_split] == [True] * 3 and len(firsts["train"]) > 45


def test_a_zip_file_is_read_as_its_folder(tunes, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "tunes"), "zip", tunes)
    folder, zipped = (load_melodies(TextRecipeArguments(dataset_name=str(name)), 1) for name in (tunes, archive))
    assert {name: texts["text"] for name, texts in folder.items()} == {n: t["text"] for n, t in zipped.items()}


def test_files_without_enough_melodies_are_refused(tunes):
    shutil.rmtree(tunes / "melody")
    message = (
        f"`{tunes}` has 1 MIDI files, and none for the split `validation` that lasts 12.8 seconds. Give more files, or a "
        "dataset with splits of its own."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        load_melodies(TextRecipeArguments(dataset_name=str(tunes)), seed=1)


def test_a_text_dataset_is_read_as_any_other(tmp_path):
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.txt").write_text(f"{UP}\n{DOWN}\n")
    args = TextRecipeArguments(dataset_name=str(tmp_path))
    assert load_melodies(args, seed=1)["test"]["text"] == [UP, DOWN]
    (tmp_path / "validation.txt").write_text(f"{UP}\n{DOWN} 3\n")
    message = (
        f"Text 1 of the split `validation` of `{tmp_path}` must be keys and rests, numbers from 0 to 88, as many as"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        load_melodies(args, seed=1)


def test_a_file_that_is_no_midi_is_named_and_hidden_files_are_passed_by(tunes):
    (tunes / "melody" / "._01.mid").write_bytes(b"of another system")
    load_melodies(TextRecipeArguments(dataset_name=str(tunes)), seed=1)
    broken = tunes / "melody" / "99.mid"
    broken.write_bytes(b"")
    with pytest.raises(ValueError, match=re.escape(f"{broken} cannot be read as a melody: ")):
        load_melodies(TextRecipeArguments(dataset_name=str(tunes)), seed=1)


def test_only_playable_texts_are_written(tmp_path, capsys):
    pytest.importorskip("mido")
    write_melodies(tmp_path, {"real": [UP], "SeqGAN": [UP, "we work"], "MLE": ["we work"]})
    assert sorted(path.name for path in (tmp_path / "melodies" / "SeqGAN").glob("*")) == ["01.mid"]
    assert "0 of 1 texts (MLE) are melodies" in capsys.readouterr().out
    assert (tmp_path / "melodies" / "piano_rolls.png").stat().st_size > 5_000


def test_pieces_have_one_length_and_more_than_one_token():
    assert pieces([*range(1, 33), *[7] * 32, *range(40, 72), 1, 2]) == [
        " ".join(map(str, range(1, 33))), " ".join(map(str, range(40, 72)))
    ]  # fmt: skip


def test_what_is_no_melody_is_counted_and_left_out():
    found = melody_metrics([UP, f"{UP} 3", "we work", "", DOWN], [UP, DOWN])
    assert found == {"melodies": 2 / 5, "mse_nearest": 0.0}
    nothing = melody_metrics(["we work", " ".join(["0"] * 32)], [UP])
    assert nothing == {"melodies": 1 / 2}


def test_a_melody_has_so_many_keys():
    assert is_melody(UP) and not is_melody("89 " * 32) and is_melody("1 0 2", 3) and not is_melody("1 0 2", 4)
