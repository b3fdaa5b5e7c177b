import struct

from seqgan_hf.plots import plot_learning_curves


def entry(step):
    return {
        "step": step, "loss": 1.0, "reward/mean": 0.4, "reward/std": 0.1, "entropy": 3.0, "seconds/rollout": 1.0,
        "discriminator/held_out_auc": 0.6,
    }  # fmt: skip


def test_learning_curves_become_a_png(tmp_path):
    history = [entry(1), entry(2), {"step": 2, "eval_nll": 4.0}, {"step": 2, "train_runtime": 3.0}]
    content = plot_learning_curves(history, tmp_path / "curves.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", content[16:24]) == (1320, 840)


def test_an_empty_log_is_drawn_empty(tmp_path):
    assert plot_learning_curves([], tmp_path / "curves.png").is_file()
