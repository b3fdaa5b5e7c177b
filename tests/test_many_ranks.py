"""The soak notes what grows, and scaling on paper adds up."""

import json

import pytest
import ranks
import soak
import torch
from several import in_processes
from test_trainer import config, texts

from seqgan_hf import SeqGANTrainer
from seqgan_hf.processes import process_index


def notes(rounds=40, growth=0.0, slower=0.0, files=10):
    return {
        "resident_mib": [100 + growth * index for index in range(rounds)],
        "open_files": [files + (index > rounds // 2) for index in range(rounds)],
        "threads": [4] * rounds,
        "round_seconds": [0.1 + slower * index for index in range(rounds)],
        "yardstick_seconds": [0.01] * rounds,
    }


def test_what_grows_leaks_or_slows_down_shows():
    flat, growing = soak.sum_up(notes(), 20), soak.sum_up(notes(growth=1.0, slower=0.01), 20)
    assert flat["growth_percent"] == 0 and flat["first_yardsticks"] == flat["last_yardsticks"] == pytest.approx(10)
    assert growing["growth_percent"] == pytest.approx(100 * (139 / 120 - 1))
    assert growing["last_yardsticks"] - growing["first_yardsticks"] == pytest.approx(15)
    assert (flat["open_files"], flat["most_open_files"]) == (10, 11)
    assert "| 0 | 120 to 139 | 15.8 | 10, 11 | 4, 4 |" in soak.soak_table([growing])


def test_two_processes_soak_and_the_first_reports(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("<!-- begin soak -->\n<!-- end soak -->\n")
    flags = ["--rounds", "4", "--save", str(tmp_path / "soak.json"), "--figure", str(tmp_path / "soak.png")]
    monkeypatch.setattr("sys.argv", ["soak.py", *flags, "--page", str(page)])
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))

    def run():
        soak.main()
        return process_index()

    assert in_processes(2, run) == [0, 1]
    found = json.loads((tmp_path / "soak.json").read_text())
    assert found["rounds"] == 4 and len(found["processes"]) == 2
    assert all(one["threads"] >= 1 and one["round_milliseconds"] > 0 for one in found["processes"])
    assert soak.soak_table(found["processes"]) in page.read_text() and (tmp_path / "soak.png").stat().st_size > 10_000


def test_a_ring_moves_twice_the_gradients_less_a_part():
    assert ranks.bytes_moved(1e6, 1) == 0
    assert ranks.bytes_moved(1e6, 2) == 4e6
    assert ranks.bytes_moved(1e6, 64) == pytest.approx(2 * 63 / 64 * 4e6)


def test_shards_leave_a_rank_the_whole_weights_and_its_part_of_the_rest():
    game = ranks.Game(ranks.Network(7e9, 7e9, 32, 4096), ranks.Network(0, 0, 1, 1), shards=True)
    assert ranks.bytes_kept(game, 8) == (4 + 16 / 8) * 7e9
    assert ranks.bytes_kept(ranks.replace(game, shards=False), 8) == 16 * 7e9
    assert ranks.bytes_of_shards(7e9, 1) == 0 and ranks.bytes_of_shards(1.0, 2) == 5
    far, near = (ranks.seconds_of_generator(game, count, ranks.Hardware()) for count in (16, 8))
    assert far == pytest.approx(15 / 16 * 70e9 / 40e9) and near < far / 5


def test_what_processes_send_is_what_was_counted(tiny_model, tmp_path, monkeypatch):
    """Of D and of texts; what DDP sends of G's gradients, it sends by itself."""
    batch, samples, length = 8, 16, 6

    def sent():
        args = config(
            tmp_path, max_steps=1, per_device_train_batch_size=batch // 2, discriminator_samples=samples,
            discriminator_batch_size=8, discriminator_warmup_steps=0, max_completion_length=length,
        )  # fmt: skip
        trainer = SeqGANTrainer(tiny_model("lstm"), tiny_model("cnn"), args, train_dataset=texts())
        sizes, reduce = [], torch.distributed.all_reduce

        def counted(tensor, *others):
            sizes.append(tensor.numel() * tensor.element_size())
            return reduce(tensor, *others)

        torch.distributed.all_reduce = counted
        trainer.train()
        trained = sum(p.numel() for p in trainer.discriminator.model.parameters() if p.requires_grad)
        return trained, sum(size for size in sizes if size >= 4 * trained), sum(s for s in sizes if s < 4 * trained)

    (trained, of_discriminator, of_texts), _ = in_processes(2, sent)
    network = ranks.Network(trained, trained, 1, 1)
    game = ranks.Game(network, network, batch, length, samples=samples, discriminator_batch=8)
    found = ranks.round_on(game, 2, ranks.Hardware())
    # With two processes, a ring sends what is summed once.
    assert of_discriminator == pytest.approx(1e9 * found["discriminator_gb"], rel=0.02)
    assert of_texts == pytest.approx(1e9 * found["other_gb"], rel=0.25)


def test_work_is_shared_out_and_passes_are_not():
    hardware = ranks.Hardware()
    for game in ranks.GAMES.values():
        rounds = {count: ranks.round_on(game, count, hardware) for count in ranks.RANKS}
        for count in ranks.RANKS:
            assert rounds[count]["tokens"] * count == rounds[1]["tokens"]
        assert rounds[64]["write"] == rounds[4]["write"] < rounds[2]["write"] < rounds[1]["write"]
        assert rounds[1]["move"] == 0 < rounds[2]["move"] < rounds[64]["move"]
        assert ranks.seconds_of_round(game, 4, hardware) < ranks.seconds_of_round(game, 1, hardware)


def test_the_cost_of_a_round_is_that_of_the_page_on_scaling():
    """`cost_of_an_update` of docs/scaling.md has the same figures for the preset `pretrained` at half the batch."""
    game = ranks.Game(ranks.GAMES["124M"].generator, ranks.GAMES["124M"].discriminator, batch=32)
    found = ranks.round_on(game, 1, ranks.Hardware())
    assert (found["rows"], found["tokens"]) == (896, 28_672)


def test_the_tables_stand_on_the_page():
    text = (soak.Path(ranks.__file__).parent.parent / "docs" / "scaling.md").read_text(encoding="utf-8")
    for name, game in ranks.GAMES.items():
        assert f"<!-- begin ranks {name} -->\n\n{ranks.ranks_table(game)}\n" in text
    assert ranks.thorough_table() in text
