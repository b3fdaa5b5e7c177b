"""Melodies as MIDI and back. The files are opened with mido, the public reader."""

import random
import re
import sys

import mido
import pytest

from seqgan_hf.music import melody_to_midi, midi_to_melody, parse_melody, save_melodies


def random_melody(rng):
    """Up to 40 steps of few keys, so that many are held: rests at either end and both ends of the keyboard among them."""
    keys = [0, 1, 88, *rng.sample(range(1, 89), 2)]
    return [key for _ in range(rng.randint(1, 10)) for key in [rng.choice(keys)] * rng.randint(1, 4)]


def messages_in_seconds(file):
    """What is played: time, type and note."""
    now, played = 0.0, []
    for message in file:
        now += message.time
        if not message.is_meta and message.type != "program_change":
            played.append((pytest.approx(now), message.type, message.note))
    return played


def track(*messages, tempo=500_000):
    """A track of (ticks since the last, type, note), type "on", "off" or "end"."""
    types = {"on": "note_on", "off": "note_off"}
    return mido.MidiTrack(
        [mido.MetaMessage("set_tempo", tempo=tempo)]
        + [
            mido.MetaMessage("end_of_track", time=ticks)
            if name == "end"
            else mido.Message(types[name], note=note, time=ticks)
            for ticks, name, note in messages
        ]
    )


def test_a_melody_becomes_notes(tmp_path):
    melody_to_midi("0 40 40 42 0 40 0").save(tmp_path / "melody.mid")
    file = mido.MidiFile(tmp_path / "melody.mid")
    assert file.length == pytest.approx(7 * 0.4)
    assert messages_in_seconds(file) == [
        (0.4, "note_on", 60),
        (1.2, "note_off", 60),
        (1.2, "note_on", 62),
        (1.6, "note_off", 62),
        (2.0, "note_on", 60),
        (2.4, "note_off", 60),
    ]
    (program,) = [message.program for message in file if message.type == "program_change"]
    assert program == 0


@pytest.mark.parametrize("step_seconds", [0.4, 0.25, 1 / 3, 2 / 3, 0.1234567, 1e-6, 16.777215])
def test_a_melody_survives_midi(step_seconds, tmp_path):
    """Exactly, whatever the step: a third of a second is no whole number of microseconds."""
    rng = random.Random(0)
    edges = [[0], [1], [88], [0, 0, 0], [0, 1, 88, 0], [1] * 50, [40, 0, 40, 0, 0]]
    for melody in [*edges, *(random_melody(rng) for _ in range(50))]:
        file = melody_to_midi(melody, step_seconds)
        file.save(tmp_path / "melody.mid")
        saved = mido.MidiFile(tmp_path / "melody.mid")
        assert midi_to_melody(file, step_seconds) == midi_to_melody(saved, step_seconds) == melody
        assert saved.length == pytest.approx(len(melody) * step_seconds, abs=1e-6 * len(melody))
        notes = [message for message in saved if message.type in ("note_on", "note_off")]
        assert all(21 <= message.note <= 108 for message in notes)
        sounding = set()
        for message in notes:
            sounding ^= {message.note}
            assert len(sounding) <= 1 and (message.type == "note_on") == (message.note in sounding)
        assert not sounding


def test_a_step_of_another_length_reads_another_melody():
    file = melody_to_midi([40, 42, 44, 45], 0.4)
    assert midi_to_melody(file, 0.2) == [40, 40, 42, 42, 44, 44, 45, 45]
    assert midi_to_melody(file, 0.8) == [40, 44]
    assert midi_to_melody(file, 0.6) == [40, 42, 45]  # at 0, 0.6 and 1.2 seconds


def test_another_instrument():
    (program,) = [message.program for message in melody_to_midi([40], program=73) if message.type == "program_change"]
    assert program == 73


def test_the_start_of_a_note_counts_and_its_end_does_not():
    """480 ticks are 0.5 seconds. From 0.5 to 1 sounds 60; 62 begins a tick after 1.5 and lasts beyond 2."""
    file = mido.MidiFile(tracks=[track((480, "on", 60), (480, "off", 60), (481, "on", 62), (500, "off", 62))])
    assert midi_to_melody(file, 0.5) == [0, 40, 0, 0, 42]


def test_the_highest_of_several_notes_is_taken():
    chord = track((0, "on", 60), (0, "on", 67), (480, "off", 67), (480, "off", 60))
    other = track((480, "on", 64), (480, "off", 64))
    assert midi_to_melody(mido.MidiFile(tracks=[chord]), 0.5) == [47, 40]
    assert midi_to_melody(mido.MidiFile(tracks=[chord, other]), 0.5) == [47, 44]


def test_drums_have_no_pitch():
    drums = mido.MidiTrack([mido.Message("note_on", channel=9, note=81, time=0)])
    melody = track((0, "on", 60), (480, "off", 60))
    assert midi_to_melody(mido.MidiFile(tracks=[drums, melody]), 0.5) == [40]


def test_a_note_on_without_velocity_is_its_end():
    notes = track((0, "on", 60), (480, "on", 60), (480, "end", None))
    notes[2] = notes[2].copy(velocity=0)
    assert midi_to_melody(mido.MidiFile(tracks=[notes]), 0.5) == [40, 0]


def test_a_note_struck_again_before_its_end_is_still_heard():
    """The end stands behind the new start, at the same tick; and an end without a start ends nothing."""
    again = track((0, "off", 60), (0, "on", 60), (480, "on", 60), (0, "off", 60), (480, "off", 60), (480, "end", None))
    assert midi_to_melody(mido.MidiFile(tracks=[again]), 0.5) == [40, 40, 0]


def test_tempo_changes_are_honoured():
    """Two beats of 0.5 seconds, then two of 1: C for a beat of either kind, D for the other."""
    notes = track((0, "on", 60), (480, "off", 60), (0, "on", 62), (480, "off", 62), (0, "on", 60), (480, "off", 60))
    notes.extend([mido.Message("note_on", note=62), mido.Message("note_off", note=62, time=480)])
    tempi = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=1_000_000, time=960)])
    assert midi_to_melody(mido.MidiFile(tracks=[notes, tempi]), 0.5) == [40, 42, 40, 40, 42, 42]
    del notes[0]  # 120 beats a minute hold where nothing is said
    assert midi_to_melody(mido.MidiFile(tracks=[notes, tempi]), 0.5) == [40, 42, 40, 40, 42, 42]


def test_an_empty_file_is_no_step():
    assert midi_to_melody(mido.MidiFile(tracks=[])) == []


def test_melodies_are_saved_by_number(tmp_path):
    melodies = [[40, 0], "42 42", ["44", "45"]]
    paths = save_melodies(melodies, tmp_path / "new" / "folder", step_seconds=0.25, program=73)
    assert [path.name for path in paths] == ["01.mid", "02.mid", "03.mid"]
    assert [midi_to_melody(path, 0.25) for path in paths] == [[40, 0], [42, 42], [44, 45]]
    assert midi_to_melody(str(paths[0]), 0.25) == [40, 0]
    assert all(mido.MidiFile(path).length == pytest.approx(0.5) for path in paths)
    many = save_melodies([[40]] * 100, tmp_path)
    assert [many[0].name, many[99].name] == ["001.mid", "100.mid"]
    assert sorted(tmp_path.glob("*.mid")) == many


def test_a_wrong_melody_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"^`tokens`: a token must be an integer .* got 89 at step 1\. "):
        save_melodies([[40], [40, 89]], tmp_path / "melodies")
    assert not (tmp_path / "melodies").exists()


def test_what_is_no_melody_is_refused():
    message = "`tokens`: a melody must have at least one step, got ''. Leave it out."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        melody_to_midi("")
    for step in (0, -0.4, 1e-7, 17):
        message = f"`step_seconds` must be from 0.000001 to 16.777215 seconds, got {step!r}."
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            melody_to_midi([40], step)
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            midi_to_melody(mido.MidiFile(), step)
    with pytest.raises(ValueError, match=r"0\.\.127"):
        melody_to_midi([40], program=128)


@pytest.mark.parametrize("pitch", [20, 109])
def test_a_note_beyond_the_piano_is_refused(pitch):
    message = f"A melody has the notes of a piano, MIDI pitches 21 to 108; got {pitch}. Transpose the file."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        midi_to_melody(mido.MidiFile(tracks=[track((0, "on", pitch), (480, "off", pitch))]))


@pytest.mark.parametrize(("kind", "ticks"), [(2, 480), (1, -6_232)])
def test_a_file_that_does_not_play_in_beats_is_refused(kind, ticks):
    """A negative number of ticks stands for frames of a film."""
    message = (
        f"A melody is read from MIDI of type 0 or 1 that counts in beats, got type {kind} with {ticks} ticks a beat."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)} Convert it\\.$"):
        midi_to_melody(mido.MidiFile(type=kind, ticks_per_beat=ticks))


def test_melodies_without_mido_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mido", None)
    for call in (
        lambda: melody_to_midi([40]),
        lambda: midi_to_melody("a.mid"),
        lambda: save_melodies([[40]], tmp_path),
    ):
        with pytest.raises(
            ImportError, match=r"^MIDI files need the package mido: pip install 'seqgan_hf\[music\]'\.$"
        ):
            call()
    assert parse_melody("40 0") == [40, 0]
