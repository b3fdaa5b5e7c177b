import json
import re
import struct
import sys

import pytest

from seqgan_hf import plots
from seqgan_hf.plots import (
    name_of_metric,
    plot_learning_curves,
    plot_panel,
    plot_piano_rolls,
    plot_quality_and_diversity,
    plot_runs,
    plot_small_plane,
    plot_temperature_sweep,
    read_log_history,
)


def entry(step):
    return {
        "step": step, "loss": 1.0, "reward/mean": 0.4, "reward/std": 0.1, "entropy": 3.0, "seconds/rollout": 1.0,
        "discriminator/held_out_auc": 0.6,
    }  # fmt: skip


def size_of(png):
    content = png.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", content[16:24])


def save_state(folder, history):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    return folder / "trainer_state.json"


def test_learning_curves_become_a_png(tmp_path):
    history = [entry(1), entry(2), {"step": 2, "eval_nll": 4.0}, {"step": 2, "train_runtime": 3.0}]
    assert size_of(plot_learning_curves(history, tmp_path / "curves.png")) == (1320, 840)


def test_an_empty_log_is_drawn_empty(tmp_path):
    assert plot_learning_curves([], tmp_path / "curves.png").is_file()


def test_up_to_four_runs_lie_over_each_other(tmp_path):
    histories = {f"run {index}": [entry(step) for step in range(index, 5)] for index in range(5)}
    four = dict(list(histories.items())[:4])
    assert size_of(plot_runs(four, tmp_path / "four.png")) == (1320, 840)
    with pytest.raises(ValueError, match=re.escape("One picture holds 4 runs at most; got 5.")):
        plot_runs(histories, tmp_path / "five.png")


def test_a_panel_is_a_picture_for_a_phone(tmp_path):
    histories = {
        "$\\undefined$ & a name that does not fit into one line of it": [entry(1), entry(2)],
        "_b": [entry(3)],
    }
    assert (
        size_of(plot_panel("discriminator", histories, tmp_path / "one.png"))[0] == 740
    )  # twice the pixels of a phone
    assert plot_panel("kl", histories, tmp_path / "kl.png") is None and not (tmp_path / "kl.png").exists()
    with pytest.raises(ValueError, match=re.escape("One picture holds 4 runs at most; got 5.")):
        plot_panel("kl", {str(number): [] for number in range(5)}, tmp_path / "kl.png")


def test_a_plane_fits_a_phone(tmp_path):
    curves = {
        "MLE": [{"temperature": t, "bleu3": 1 - t / 2, "self_bleu3": 0.9 - t / 2} for t in (1.0, 0.8)],
        "real texts": [{"temperature": 1.0, "bleu3": 0.6, "self_bleu3": 0.4}],
    }
    assert size_of(plot_small_plane(curves, tmp_path / "plane.png", "self_bleu3", "bleu3"))[0] == 740
    assert [name_of_metric(metric) for metric in ("bleu3", "self_bleu2", "nll")] == ["BLEU-3", "self-BLEU-2", "nll"]


def test_a_log_is_read_from_a_run_its_last_checkpoint_or_the_file(tmp_path):
    for step in (9, 10):
        file = save_state(tmp_path / f"checkpoint-{step}", [entry(step)])
    (tmp_path / "checkpoint-best").mkdir()
    assert read_log_history(file) == read_log_history(str(file.parent)) == [entry(10)]
    assert read_log_history(tmp_path) == [entry(10)]  # and not 9, the last in the alphabet
    save_state(tmp_path, [entry(11)])
    assert read_log_history(tmp_path) == [entry(11)]


def test_what_cannot_be_plotted_is_said(tmp_path):
    def refused(run, message):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            read_log_history(run)

    nowhere = tmp_path / "nowhere"
    refused(nowhere, f"There is no run {nowhere}. Pass its output_dir, a checkpoint, or a trainer_state.json.")
    refused(
        tmp_path,
        f"There is nothing to plot in {tmp_path}: neither it nor a checkpoint in it has a trainer_state.json. Pass the "
        "output_dir of a run that was saved.",
    )
    state = save_state(tmp_path, [{"step": 1, "train_runtime": 2.0}])
    refused(
        tmp_path,
        f"There is nothing to plot in {state}: its 1 logs have none of the curves. A run logs every `logging_steps` "
        "updates of the generator.",
    )
    for content in ("{", "[]", "{}"):
        state.write_text(content)
        refused(state, f"{state} is not the state of a Trainer: it lacks `log_history`.")


@pytest.mark.parametrize("temperatures", [[0.7, 1.0, 1.3], [1.0]])
def test_a_sweep_becomes_a_png(temperatures, tmp_path):
    sweep = [
        {"temperature": t, "nll": 4 + (t - 1) ** 2, "bleu2": 0.9 / t, "bleu3": 0.5 / t, "bleu4": 0.0}
        for t in temperatures
    ]
    assert size_of(plot_temperature_sweep(sweep, tmp_path / "sweep.png", "a model")) == (1320, 720)


@pytest.mark.parametrize("temperatures", [[0.7, 1.0], [0.7, 0.8], [1.0]])
def test_quality_and_diversity_become_a_png(temperatures, tmp_path):
    curve = [{"temperature": t, "NLL_oracle": 8 * t, "NLL_test": 5 / t} for t in temperatures]
    curves = {f"generator {index}": curve for index in range(12)}  # more than there are colours
    assert size_of(plot_quality_and_diversity(curves, str(tmp_path / "plane.png"), "a title")) == (960, 720)


ROLLS = {"real": [[40, 40, 0, 47], "42 44 45 0 0 88", [1]], "MLE": [["40", "40"]], "SeqGAN": [[0, 0, 0], [52, 0, 52]]}


def drawn_by(monkeypatch, rolls, path, **settings):
    """The axes of the picture: for each that is seen its bars (start, seconds, key), and the figure."""
    made, new_figure = [], plots._new_figure
    monkeypatch.setattr(plots, "_new_figure", lambda figsize: made.append(new_figure(figsize)) or made[-1])
    plot_piano_rolls(rolls, path, **settings)
    (figure,) = made
    bars = [
        [
            (box.x0, box.width, box.y0 + 0.5)
            for bar in axes.collections
            for box in (outline.get_extents() for outline in bar.get_paths())
        ]
        for axes in figure.axes
        if axes.get_visible()
    ]
    return figure, bars


def test_piano_rolls_become_a_png(tmp_path):
    assert size_of(plot_piano_rolls(ROLLS, tmp_path / "rolls.png", "a title")) == (1092, 732)
    assert size_of(plot_piano_rolls({"one": [[0]]}, str(tmp_path / "silent.png"))) == (444, 300)


def test_piano_rolls_have_a_bar_for_each_note(tmp_path, monkeypatch):
    _, bars = drawn_by(monkeypatch, ROLLS, tmp_path / "rolls.png", step_seconds=0.5)
    assert bars == [
        [(0, 1, 40), (1.5, 0.5, 47)],
        [(0, 0.5, 42), (0.5, 0.5, 44), (1, 0.5, 45), (2.5, 0.5, 88)],
        [(0, 0.5, 1)],
        [(0, 1, 40)],
        [],
        [(0, 0.5, 52), (1, 0.5, 52)],
    ]


def test_piano_rolls_are_cropped_to_the_notes_in_use(tmp_path, monkeypatch):
    """All share the axes: a key of room above and below, and the seconds of the longest."""
    figure, _ = drawn_by(monkeypatch, {"real": [[40, 0, 47]], "MLE": [[45] * 5, [0]]}, tmp_path / "rolls.png")
    for axes in figure.axes:
        assert axes.get_xlim() == (0, 2) and axes.get_ylim() == (38.5, 48.5)
    named = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert named == ["B3", "C4", "D4", "E4", "F4", "G4"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["real", "", "MLE", ""]
    assert [axes.get_visible() for axes in figure.axes] == [True, False, True, True]


def test_piano_rolls_over_many_octaves_name_fewer_keys(tmp_path, monkeypatch):
    figure, _ = drawn_by(monkeypatch, {"real": [[28, 52]]}, tmp_path / "rolls.png")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["C3", "G3", "C4", "G4", "C5"]


@pytest.mark.parametrize("rolls", [{}, {"real": []}, {"real": [[40]], "MLE": []}])
def test_piano_rolls_of_nothing_are_refused(rolls, tmp_path):
    message = "There is nothing to plot: `rolls` must hold at least one melody for each name."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        plot_piano_rolls(rolls, tmp_path / "rolls.png")


def test_piano_rolls_of_no_melody_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^`rolls`: a token must be an integer from 0, .* got 89 at step 1\. "):
        plot_piano_rolls({"real": [[40, 89]]}, tmp_path / "rolls.png")


def test_pictures_without_matplotlib_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    message = "Pictures need the package matplotlib: pip install 'seqgan_hf[plots]'."
    with pytest.raises(ImportError, match=re.escape(message)):
        plot_learning_curves([entry(1)], tmp_path / "curves.png")
    with pytest.raises(ImportError, match=re.escape(message)):
        plot_temperature_sweep([], tmp_path / "sweep.png")
    with pytest.raises(ImportError, match=re.escape(message)):
        plot_quality_and_diversity({}, tmp_path / "plane.png")
    with pytest.raises(ImportError, match=re.escape(message)):
        plot_piano_rolls({"real": [[40]]}, tmp_path / "rolls.png")
