import pytest
import torch
from conftest import GENERATORS
from transformers import GPT2Config, GPT2LMHeadModel

from seqgan_hf import memory
from seqgan_hf.memory import free_bytes, rows_that_fit


def test_free_memory_of_this_machine_is_between_nothing_and_all_of_it():
    import psutil

    assert 0 < free_bytes(torch.device("cpu")) <= psutil.virtual_memory().total


def test_a_container_s_limit_counts(monkeypatch, tmp_path):
    real = memory.Path
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("anon 400\ninactive_file 500\n")
    monkeypatch.setattr(memory, "Path", lambda path: real(str(path).replace("/sys/fs/cgroup", str(tmp_path))))
    assert free_bytes(torch.device("cpu")) == 600  # what is only cached from files can be had
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(torch.device("cpu")) > 10_000


def test_rows_by_hand(monkeypatch):
    """GPT-2 keeps keys and values of 2 layers, 16 wide, in float32: 256 bytes a token, doubled for the copy."""
    model = GPT2LMHeadModel(GPT2Config(vocab_size=10, n_embd=16, n_layer=2, n_head=2, n_positions=64))
    per_row = 2 * 256 * 50
    blocks = 3 * 4 * 10 * memory.rows_at_once(10, 16, torch.device("cpu"))
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2 * (blocks + 100 * per_row))
    assert rows_that_fit(model, 50) == 64
    monkeypatch.setattr(memory, "split_head", lambda model: None)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2 * 100 * (per_row + 3 * 4 * 10))
    assert rows_that_fit(model, 50) == 64


@pytest.mark.parametrize("name", GENERATORS)
def test_a_row_fits_however_little_is_free_and_a_cpu_takes_no_more_than_it_is_good_at(name, tiny_model, monkeypatch):
    model = tiny_model(name).train()
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    assert rows_that_fit(model, 20) == 1
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**50)
    assert rows_that_fit(model, 20) == 2048
    assert model.training
    monkeypatch.setattr(memory, "_MOST_ROWS_ON_CPU", 2**40)
    rows = []
    for free in (2**30, 2**31, 2**32):
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free)
        rows.append(rows_that_fit(model, 20))
    assert rows[2] == 2 * rows[1] == 4 * rows[0]
