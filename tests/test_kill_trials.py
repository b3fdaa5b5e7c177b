"""What the kill trials compare, and that they can fail."""

import re

import torch
from kill_trials import Moment, digest
from machine import ROOT
from safetensors.torch import save_file


def write(folder, weight=1.0, step=3):
    folder.mkdir(exist_ok=True)
    save_file({"weight": torch.tensor([weight])}, folder / "model.safetensors")
    state = {"exp_avg": torch.zeros(2), "step": torch.tensor(step), "positions": [1, (2, 3)], "none": None}
    torch.save({"state": {0: state}}, folder / "optimizer.pt")
    (folder / "trainer_state.json").write_text("{}")


def test_a_digest_notices_any_bit_and_no_order(tmp_path):
    write(tmp_path / "a")
    first = digest(tmp_path / "a")
    torch.save(dict(reversed(torch.load(tmp_path / "a" / "optimizer.pt").items())), tmp_path / "a" / "optimizer.pt")
    (tmp_path / "a" / "trainer_state.json").write_text('{"train_runtime": 2.0}')
    assert digest(tmp_path / "a") == first
    digests = set()
    for seconds in (1.0, 2.0):
        torch.save({"sets_played": 3, "cpu_seconds": seconds}, tmp_path / "a" / "seqgan_state.pt")
        digests.add(digest(tmp_path / "a"))
    assert len(digests) == 1 and first not in digests
    for change in ({"weight": 1.0 + 2**-23}, {"step": 4}):
        write(tmp_path / "b", **change)
        assert digest(tmp_path / "b") != first


def test_a_moment_outlives_what_it_replaces():
    moment = Moment()
    moment.write("discriminator")
    moment.write("saving")
    assert moment.read() == "saving"


def test_killed_runs_end_as_those_that_nothing_interrupted(machine, tmp_path):
    ended = machine.run(["python", str(ROOT / "benchmarks" / "kill_trials.py"), "--trials", "2"], tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert re.findall(r"\d+\. killed in .*: (\w+)", ended.stdout) == ["same", "same"]
    assert "| all | 2 | 2 |" in ended.stdout
