"""The benchmarks run, count what they say they count, and their tables land between their markers."""

import functools
import json
import os
import re
import runpy
import struct
import subprocess
import sys
import traceback
from argparse import Namespace
from pathlib import Path

import growth
import measuring
import memory
import operations
import performance
import pytest
import rollouts
import settings
import torch
from torch.utils.flop_counter import FlopCounterMode

from seqgan_hf import LSTMConfig, LSTMForCausalLM, TextCNNConfig, TextCNNForSequenceClassification

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"

TINY_ROLLOUTS = ["--batch_size", "2", "--length", "6", "--num_rollouts", "3", "--vocab_size", "50", "--repeats", "1"]
TINY = {
    "rollouts_paper": ["rollouts.py", "--setting", "paper", *TINY_ROLLOUTS, "--rollout_batch_size", "10"],
    "rollouts_gpt2": ["rollouts.py", "--setting", "gpt2", *TINY_ROLLOUTS],
    "rollouts_llama": ["rollouts.py", "--setting", "llama", *TINY_ROLLOUTS, "--dtype", "bfloat16"],
    "round": ["round.py", "--scale", "0.01", "--bf16", "--repeats", "1"],
    "growth": [
        "growth.py", "--points", "2", "--batch_size", "1", "--num_rollouts", "1", "--length", "6", "--vocab_size", "50",
        "--repeats", "2",
    ],
    "memory": [
        "memory.py", "--sweep_num_rollouts", "3", "--sweep_batch_size", "2", "--batch_size", "2", "--num_rollouts", "3",
        "--length", "6", "--vocab_size", "50",
    ],
}  # fmt: skip


def run_in_fork(script, arguments, output):
    """Run a script as `python SCRIPT` does, in a process that need not import again what takes most of its time."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for number, stream in ((1, "stdout"), (2, "stderr")):
                file = os.open(output.with_suffix(f".{stream}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(file, number)
                setattr(sys, stream, open(number, "w", encoding="utf-8", closefd=False))
            sys.argv = [script, *arguments]
            runpy.run_path(script, run_name="__main__")
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert status == 0, output.with_suffix(".stderr").read_text()
    return output.with_suffix(".stdout").read_text()


def run_elsewhere(script, *arguments):
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("benchmarks")


@pytest.fixture(scope="module")
def saved(folder):
    """From a script's name to what it saved, run at a tiny size when first asked for: workers share the tests."""

    @functools.cache
    def run(name):
        script, *arguments = TINY[name]
        arguments = [*arguments, "--save", str(folder / f"{name}.json")]
        if name == "growth":
            arguments += ["--figure", str(folder / "growth.png")]
        # memory.py starts itself again, so that at least this one is seen to run from its file alone.
        with pytest.MonkeyPatch.context() as patch:
            # In bfloat16 a minute where a processor has no products of it.
            patch.setattr(measuring, "_LARGE_SIDE", 128)
            printed = run_in_fork(str(BENCHMARKS / script), arguments, folder / name)
        result = json.loads((folder / f"{name}.json").read_text())
        (line,) = printed.splitlines()
        assert json.loads(line) == result
        assert result["benchmark"] == script.removesuffix(".py")
        assert set(result["versions"]) == {"python", "torch", "transformers", "seqgan_hf"}
        assert result["settings"]["threads"] == 1
        assert result["cpu"]
        assert re.fullmatch(r"[0-9a-f]{7,}(\+dirty)?|unknown", result["commit"])
        return result

    return run


# ---- The scripts, each of which prints one line and saves the same -------------------------------------------------


@pytest.mark.parametrize("setting", ["paper", "gpt2", "llama"])
def test_rollouts_are_compared_at_the_same_number_of_tokens(setting, saved):
    result = saved(f"rollouts_{setting}")["results"]
    assert set(result["methods"]) == {
        "lockstep", "generate for each prefix", *(["lean loop"] if setting == "paper" else [])
    }  # fmt: skip
    for method in result["methods"].values():
        assert method["sampled_tokens"] == 3 * 2 * (5 + 4 + 3 + 2 + 1)
        assert 0 < method["seconds"]["min"] <= method["seconds"]["median"] <= method["seconds"]["max"]
        assert method["tokens_per_second"] == pytest.approx(90 / method["seconds"]["median"])
        assert method["times_floor"] == pytest.approx(method["seconds"]["median"] / result["floor"]["seconds"])
    assert result["methods"]["lockstep"]["times_lockstep"]["median"] == 1
    assert set(result["hardware"]) == {"multiply large", "multiply logits", "copy"}
    shown = {"paper": "paper", "gpt2": "gpt2", "llama": "llama, cpu bfloat16"}[setting]
    table = performance.render_tables([saved(f"rollouts_{setting}")])["rollouts"]
    assert f"| {shown} | generate for each prefix |" in table


def test_one_chunk_of_rollouts_takes_no_more_passes_than_tokens(saved):
    passes = saved("rollouts_paper")["results"]["forward_passes"]
    assert passes["passes_in_one_chunk"] <= 6 and passes["at_most_length_in_one_chunk"]
    assert passes["passes"] > passes["passes_in_one_chunk"]  # 30 rollouts, 10 at once
    assert "| paper | 6 | 10 |" in performance.render_tables([saved("rollouts_paper")])["forward_passes"]


def test_a_round_has_every_figure_with_its_floor(saved):
    result = saved("round")["results"]
    with_floor = {"generator_update", "rollouts", "scoring", "discriminator_epoch", "likelihood_epoch", "samples"}
    alone = {"gradient_step", "scoring_alone", "scoring_alone_bf16", "discriminator_epoch_bf16"}
    assert set(result["figures"]) == with_floor | alone
    for name in with_floor:
        figure = result["figures"][name]
        assert figure["times_floor"] == pytest.approx(figure["seconds"]["median"] / figure["floor"]["seconds"])
        assert "peers" not in figure and "bar" not in figure  # those are of the paper's size
    parts = (result["figures"][name]["seconds"]["median"] for name in ("rollouts", "scoring", "gradient_step"))
    assert sum(parts) == pytest.approx(result["figures"]["generator_update"]["seconds"]["median"])
    assert result["texts_scored"] == 64 * (19 + 1)  # one rollout of 19 prefixes, and the completion
    assert result["tokens_rolled_out"] == 194_560 / 16
    assert result["discriminator_updates"] == 4  # 100 + 100 texts, 64 at once
    assert result["product_factor"] == pytest.approx(90 / result["hardware"]["multiply large"]["median"])
    assert result["machine_factor"] == pytest.approx(result["lean_loop_seconds"]["median"] / (32 / 16))
    assert {"generate", "rollout", "score", "generator"} <= set(result["update_wall_seconds"])
    assert "| D epoch, bfloat16 |" in performance.render_tables([saved("round")])["round"]


def test_memory_is_measured_in_a_process_of_its_own(saved):
    result = saved("memory")["results"]
    (point,) = result["num_rollouts"]["points"]
    assert (point["batch_size"], point["num_rollouts"]) == (2, 3)
    before, peak, growth_of_point = (point[f"{what}_megabytes"]["median"] for what in ("before", "peak", "growth"))
    assert growth_of_point == pytest.approx(peak - before) and 0 <= growth_of_point < before
    assert result["batch_size"]["points"] == [point]  # both sweeps have it, and it is measured once
    assert isinstance(result["peak_was_reset"], bool)
    assert "| N = 3 |" in performance.render_tables([saved("memory")])["memory"]


def test_the_growth_of_memory_is_that_of_the_peak_from_first_to_last(monkeypatch):
    measured = []

    def measure_elsewhere(batch_size, num_rollouts, args):
        measured.append((batch_size, num_rollouts))
        peak = 100 + num_rollouts + batch_size
        return {"before": 90, "peak": peak, "growth": peak - 90, "peak_was_reset": True}

    monkeypatch.setattr(memory, "measure_elsewhere", measure_elsewhere)
    sizes = {"batch_size": 4, "num_rollouts": 1, "sweep_num_rollouts": [1, 2, 3], "sweep_batch_size": [4, 16]}
    results = memory.measure_sweeps(Namespace(**sizes, repeats=2))
    assert measured == 2 * [(4, 1), (4, 2), (4, 3), (16, 1)]
    assert results["num_rollouts"]["relative_growth"] == pytest.approx(107 / 105 - 1)
    assert results["num_rollouts"]["below_bar"]
    assert results["batch_size"]["relative_growth"] == pytest.approx(117 / 105 - 1)
    assert not results["batch_size"]["below_bar"]


def test_growth_is_measured_fitted_and_drawn(saved, folder):
    result = saved("growth")["results"]
    assert set(result) == set(growth.SWEEPS)
    lengths = result["length, stride 8"]["points"]
    assert [(point["size"], point["tokens"]) for point in lengths] == [(16, 8), (32, 24 + 16 + 8)]
    assert lengths[1]["theory"] == 6
    assert result["vocabulary"]["theory_exponent"] == pytest.approx(1)
    for sweep in result.values():
        seconds = [point["seconds"]["median"] for point in sweep["points"]]
        assert sweep["exponent"] == pytest.approx(growth.fit_exponent(growth_sizes(sweep), seconds))
    assert struct.unpack(">II", (folder / "growth.png").read_bytes()[16:24]) == (2000, 1480)
    assert "| T, stride 8 | 16 to 32 |" in performance.render_tables([saved("growth")])["growth"]


def growth_sizes(sweep):
    return [point["size"] for point in sweep["points"]]


# ---- What they rest on ---------------------------------------------------------------------------------------------


def test_tasks_take_turns_and_what_they_return_is_digested_off_the_clock():
    now, order = [0.0], []

    def task(name, seconds):
        def run():
            order.append(name)
            now[0] += seconds
            return name

        return run

    def digest(name, value):
        now[0] += 100
        return value * 2

    tasks = {"a": task("a", 1.0), "b": task("b", 2.0)}
    measured = measuring.interleave(tasks, 2, clock=lambda: now[0], digest=digest)
    assert order == ["a", "b", "a", "b"]
    assert measured["b"] == measuring.Measured(seconds=[2.0, 2.0], values=["bb", "bb"])


def test_no_repeats_are_refused():
    with pytest.raises(ValueError, match=re.escape("`repeats` must be at least 1, got 0.")):
        measuring.interleave({}, 0)


def test_ratios_are_taken_within_a_repeat():
    assert measuring.ratios([2.0, 8.0, 9.0], [1.0, 2.0, 9.0]) == {"median": 2.0, "min": 1.0, "max": 4.0}


def test_rates_and_floor_by_hand():
    measured = {
        "multiply large": measuring.Measured([2.0, 1.0, 4.0], [4e9, 4e9, 4e9]),
        "copy": measuring.Measured([1.0], [5e9]),
        "something else": measuring.Measured([1.0], [None]),
    }
    rates = measuring.hardware_rates(measured)
    assert rates["multiply large"] == {"median": 2.0, "min": 1.0, "max": 4.0}
    assert measuring.floor_of(6e9, 10e9, rates) == {"gflop": 6.0, "gbyte": 10.0, "seconds": 3.0 + 2.0}


def test_the_peak_sees_what_is_gone_again():
    before = measuring.resident_bytes()
    measuring.reset_peak()
    torch.ones(64 * 1024**2 // 4)
    assert measuring.peak_resident_bytes() - before > 50e6


@pytest.mark.parametrize(("stride", "tokens"), [(1, 194_560), (8, 16 * 64 * (12 + 4)), (20, 0)])
def test_tokens_that_must_be_sampled(stride, tokens):
    assert operations.sampled_tokens(batch_size=64, length=20, num_rollouts=16, stride=stride) == tokens


@pytest.mark.parametrize("length", [12, 20])
def test_the_operations_of_the_discriminator_are_those_that_torch_counts(length):
    config = TextCNNConfig(vocab_size=30)
    judge = TextCNNForSequenceClassification(config).eval()
    with FlopCounterMode(display=False) as counter:
        judge(input_ids=torch.zeros(1, length, dtype=torch.long), attention_mask=torch.ones(1, length))
    assert operations.cnn_operations(config, length) == counter.get_total_flops()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_operations_of_a_decoder_are_those_that_torch_counts(family):
    model = rollouts.build_model(family, vocab_size=50, length=6)
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        model(input_ids=torch.zeros(1, 1, dtype=torch.long))
    assert operations.sequence_operations(model, length=1) == counter.get_total_flops()
    # The second token looks back at two.
    more = operations.sequence_operations(model, 2) - 2 * operations.sequence_operations(model, 1)
    assert more == 4 * (2 * 2 * 256)


def test_the_operations_of_the_papers_generator_by_hand():
    model = LSTMForCausalLM(LSTMConfig())
    assert operations.projection_operations(model) == 2 * 32 * 5000
    assert operations.body_operations(model) == 2 * 4 * 32 * (32 + 32)
    assert operations.attention_operations(model, context=9) == 0
    assert operations.rollout_operations(model, 64, 20, 16) == 194_560 * (320_000 + 16_384)


def test_every_method_continues_every_prefix_from_its_own_state():
    """With logits so far apart that sampling has no choice, all must write the same."""
    model = rollouts.build_model("lstm", vocab_size=50, length=6)
    with torch.no_grad():
        for parameter in model.lstm.parameters():
            parameter.mul_(10)
        for parameter in model.lm_head.parameters():
            parameter.mul_(1e5)
    completions, generation_config = rollouts.write_completions(model, batch_size=3, length=6)
    completions.completion_ids = torch.randint(50, (3, 6))  # prefixes that the model would not write

    def written(method):
        parts = rollouts.consume(method, model, completions, generation_config, 2)
        assert rollouts.count_sampled(parts, completions) == 2 * 3 * 15
        return sorted(
            (int(prefix), int(row), *ids)
            for part in parts
            for prefix, row, ids in zip(part.prefix_length, part.row, part.completion_ids.tolist(), strict=True)
        )

    lockstep = written(lambda *arguments: rollouts.lockstep(*arguments, batch_size=4))
    assert written(rollouts.lean_loop) == written(rollouts.generate_each_prefix) == lockstep
    assert len({tuple(ids[2:]) for ids in lockstep}) == 15  # both rollouts of a prefix agree, and no two prefixes do


def test_rollouts_that_broke_their_prefix_are_not_counted():
    model = rollouts.build_model("lstm", vocab_size=50, length=3)
    completions, _ = rollouts.write_completions(model, batch_size=1, length=3)
    one = torch.zeros(1, dtype=torch.long)
    kept = rollouts.Finished(completions.completion_ids, row=one, prefix_length=one + 2)
    assert rollouts.count_sampled([kept, kept], completions) == 2
    changed = rollouts.Finished((completions.completion_ids + 1) % 50, row=one, prefix_length=one + 2)
    with pytest.raises(
        RuntimeError, match=re.escape("2 tokens of the prefixes were changed; a rollout must keep them.")
    ):
        rollouts.count_sampled([changed], completions)
    short = rollouts.Finished(completions.completion_ids[:, :2], row=one, prefix_length=one)
    with pytest.raises(RuntimeError, match=re.escape("Sequences of 2 tokens came back; expected 3.")):
        rollouts.count_sampled([short], completions)


def test_a_chunk_takes_the_same_passes_whatever_its_size():
    model = rollouts.build_model("lstm", vocab_size=50, length=5)

    def passes(batch_size, num_rollouts):
        completions, settings = rollouts.write_completions(model, batch_size, 5)
        roll = lambda: rollouts.lockstep(model, completions, settings, num_rollouts, batch_size=None)  # noqa: E731
        return rollouts.count_forward_passes(model, roll)

    assert passes(1, 1) == passes(3, 4) == 4


def test_the_exponent_of_a_power_law_is_found():
    sizes = [10, 20, 40, 80, 160]
    assert growth.fit_exponent(sizes, [3 * size**1.7 for size in sizes]) == pytest.approx(1.7)


def test_the_lower_half_does_not_count():
    assert growth.fit_exponent([1, 2, 4, 8, 16, 32], [50, 50, 50, 64, 256, 1024]) == pytest.approx(2)


def test_one_point_has_no_exponent():
    with pytest.raises(ValueError, match=re.escape("An exponent needs at least two points, got 1.")):
        growth.fit_exponent([1], [1])


# ---- The page ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.00"), (1, "1.00"), (0.99949, "0.999"), (0.9996, "1.00"), (0.00123456, "0.00123"), (12.345, "12.3"),
        (194_560, "195,000"), (999.6, "1,000"), (-0.0456, "-0.0456"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits(value, text):
    assert performance.three_digits(value) == text


def test_a_table_is_markdown():
    table = performance.markdown_table(["what", "seconds"], [["a", "1.00"], ["b", "-"], ["c", "+2.0 %"]])
    assert table == "| what | seconds |\n| --- | ---: |\n| a | 1.00 |\n| b | - |\n| c | +2.0 % |"


def test_tables_land_between_their_markers_and_the_text_is_kept():
    page = "# Title\n\n<!-- begin one -->\nold\n<!-- end one -->\nbetween\n<!-- begin two --><!-- end two -->\nend\n"
    written = performance.insert_tables(page, {"one": "| 1 |", "two": "| 2 |"})
    assert written == (
        "# Title\n\n<!-- begin one -->\n\n| 1 |\n\n<!-- end one -->\nbetween\n"
        "<!-- begin two -->\n\n| 2 |\n\n<!-- end two -->\nend\n"
    )
    assert performance.insert_tables(written, {"one": "| 1 |", "two": "| 2 |"}) == written


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (
            "no marker",
            "The page must have the line `<!-- begin one -->` once, and has it 0 times: the table goes between "
            "`<!-- begin one -->` and `<!-- end one -->`.",
        ),
        (
            "<!-- begin one -->",
            "The page must have the line `<!-- end one -->` once, and has it 0 times: the table goes between "
            "`<!-- begin one -->` and `<!-- end one -->`.",
        ),
        (
            "<!-- end one --><!-- begin one -->",
            "`<!-- end one -->` stands before `<!-- begin one -->` in the page: swap the two lines.",
        ),
    ],
)
def test_a_missing_marker_is_said(page, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        performance.insert_tables(page, {"one": "| 1 |"})


def test_the_page_is_written_from_saved_results(folder):
    page = folder / "performance.md"
    names = ["rollouts", "forward_passes", "round", "memory", "growth", "machine"]
    page.write_text("\n".join(f"About {name}:\n<!-- begin {name} -->\n<!-- end {name} -->\n" for name in names))
    paths = [BENCHMARKS / "results" / f"{name}.json" for name in sorted(TINY)]
    done = run_elsewhere("performance.py", *paths, "--page", page)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["tables"] == names
    written = page.read_text()
    tables = performance.render_tables([json.loads(path.read_text()) for path in paths])
    for name in names:
        assert f"About {name}:\n<!-- begin {name} -->\n\n{tables[name]}\n\n<!-- end {name} -->\n" in written
    assert "| D epoch, bfloat16 |" in tables["round"] and "| rollouts, gpt2 |" in tables["machine"]

    page.write_text("nothing")
    done = run_elsewhere("performance.py", BENCHMARKS / "results" / "round.json", "--page", page, "--tables", "round")
    assert done.returncode == 1 and page.read_text() == "nothing"
    assert done.stderr.strip() == (
        "The page must have the line `<!-- begin round -->` once, and has it 0 times: the table goes between "
        "`<!-- begin round -->` and `<!-- end round -->`."
    )


def test_bars_and_peers_stand_beside_the_papers_size():
    series = {"samples": [4.0, 3.0, 5.0], "gradient_step": [0.1, 0.1, 0.1]}
    rates = {"multiply large": {"median": 50.0}, "copy": {"median": 10.0}}
    benchmark = runpy.run_path(str(BENCHMARKS / "round.py"))
    factors = {"by_lean_loop": 2.0, "by_products": 0.5}
    figures = benchmark["figures"](series, {"samples": (100e9, 0)}, rates, factors, whole=True)
    samples = figures["samples"]
    assert samples["on_reference_machine"] == {"by_lean_loop": 2.0, "by_products": 8.0} and samples["bar"] == 2.5
    assert samples["below_bar"] == {"here": False, "by_lean_loop": True, "by_products": False}
    assert samples["times_floor"] == 2.0
    result = {"benchmark": "round", "settings": {}, "results": {"figures": figures}}
    table = performance.round_table([result]).splitlines()
    assert table[0].split(" | ")[-1] == "suragnair/seqGAN (GRU) |"
    here = "| 10,000 samples | 4.00 (3.00 to 5.00) | 2.00 | 8.00 | 2.50 | 2.00 | 2.00 |"
    assert table[2] == f"{here} 5.90 | 11.3 | 25.6 | 27.6 |"
    assert table[3].endswith("| 0.0500 | 0.200 | - | - | - | - | - | - | - |")


def test_two_results_do_not_compete_for_a_table():
    with pytest.raises(ValueError, match=re.escape("There are 2 results of round.py; pass the one to show.")):
        performance.round_table([{"benchmark": "round"}, {"benchmark": "round"}])


def test_what_is_no_result_is_said(tmp_path):
    with pytest.raises(ValueError, match="There are no results: run the benchmarks with"):
        performance.read_results([])
    wrong = tmp_path / "wrong.json"
    wrong.write_text("[]")
    with pytest.raises(
        ValueError, match=re.escape("wrong.json is not the result of a benchmark: pass what `--save` wrote.")
    ):
        performance.read_results([wrong])
    wrong.write_text("{")
    with pytest.raises(ValueError, match=re.escape("wrong.json cannot be read as the result of a benchmark: ")):
        performance.read_results([wrong])


# ---- What settings cost --------------------------------------------------------------------------------------------


def small(values, factor=1.0):
    """What `settings.update` returns: the same seconds of CPU and wall."""
    seconds = {phase: factor * value for phase, value in values.items()}
    return {"cpu": seconds, "wall": seconds}


def test_a_phase_clock_counts_what_is_outside_and_inside_of_phases(monkeypatch):
    times = iter([10.0, 11.0, 13.0, 16.0, 20.0, 25.0])
    monkeypatch.setattr(settings.time, "process_time", lambda: next(times))
    clock = settings.PhaseClock()
    clock.on_train_begin()
    for phase in ("rollout", "score", "rollout", None):  # as a `Meter` tells it
        clock.enter(phase)
    clock.on_log(logs={"loss": 0.5})
    clock.on_log(logs={"train_runtime": 15.0})
    assert clock.seconds == {"other": 1.0 + 5.0, "rollout": 2.0 + 4.0, "score": 3.0}


@pytest.mark.parametrize("pair", ["LSTM and CNN", "GPT-2 and RoBERTa"])
def test_an_update_is_measured_by_phase(pair, monkeypatch, tmp_path):
    monkeypatch.setattr(settings, "CHANGES", {"length x 2": settings.CHANGES["length x 2"]})
    result = settings.measure_changes(settings.PAIRS[pair].scaled(0.1), 1, str(tmp_path))
    assert list(result) == ["base", "length x 2"]
    phases = {"generate", "rollout", "score", "generator", "discriminator", "other", "update"}
    for change in result.values():
        for kind in ("cpu_seconds", "wall_seconds"):
            seconds = {phase: values["median"] for phase, values in change[kind].items()}
            assert set(seconds) == phases and min(seconds.values()) > 0
            assert sum(seconds.values()) == pytest.approx(2 * seconds["update"])
    shares = {phase: values["median"] for phase, values in result["base"]["shares"].items()}
    assert sum(shares.values()) == pytest.approx(2) and shares["update"] == 1


def test_changes_are_compared_with_the_base_of_the_same_repeat():
    base = {"rollout": 1.0, "score": 3.0, "generator": 1.0, "discriminator": 5.0, "update": 10.0}
    changed = {**base, "rollout": 2.0, "update": 11.0}
    measured = {
        "base": measuring.Measured(values=[small(base), small(base, factor=10.0)]),
        "`num_rollouts` x 2": measuring.Measured(values=[small(changed), small(changed, factor=10.0)]),
    }
    result = settings.compare(measured)
    assert result["`num_rollouts` x 2"]["times_base"]["rollout"] == {"median": 2.0, "min": 2.0, "max": 2.0}
    assert settings.changes_table({"A and B": result}).splitlines()[2:] == [
        "| A and B: share | 10 % | 30 % | 10 % | 50 % |  |",
        "| `num_rollouts` x 2 | 2.0 | 1.0 | 1.0 | 1.0 | 1.1 |",
    ]


def test_each_change_changes_one_thing():
    for game in settings.PAIRS.values():
        for change in settings.CHANGES.values():
            changed, before = vars(change(game)), vars(game)
            (name,) = (name for name in before if changed[name] != before[name])
            assert len(changed["settings"]) == 1 if name == "settings" else changed[name] == 2 * before[name]


def test_rollouts_at_once_are_measured_and_written_into_a_page(tmp_path):
    page, saved = tmp_path / "scaling.md", tmp_path / "settings.json"
    begin, end = "Title\n<!-- begin rollout_batch_size -->\n", "\n<!-- end rollout_batch_size -->\nEnd\n"
    page.write_text(begin + end)
    flags = ["--tables", "rollout_batch_size", "--scale", "0.3", "--repeats", "1", "--save", saved, "--page", page]
    printed = run_in_fork(str(BENCHMARKS / "settings.py"), list(map(str, flags)), tmp_path / "settings")
    assert json.loads(saved.read_text()) == json.loads(printed)
    result = json.loads(printed)["results"]["rollout_batch_size"]
    assert result["num_sequences"] == 5 * 19 * 5  # N, B and T - 1 of 0.3 x the paper's 16, 64 and 20
    passes = {name: method["forward_passes"] for name, method in result["methods"].items()}
    assert passes["512"] == passes["all"] == 5 < passes["128"]
    assert passes["`generate` for each prefix"] == 6 * 5 / 2
    written = page.read_text()
    assert (
        written == f"Title\n<!-- begin rollout_batch_size -->\n\n{settings.rollouts_table(result)}\n\n{written[-36:]}"
    )
    assert "| all 475 at once | 5 | " in written and "| 512 (default) | 5 | 1.0 |" in written


def test_logits_do_not_exist_as_a_whole_where_the_head_can_be_split_off(tmp_path):
    flags = ["--logits_batch_size", "8", "--logits_length", "16", "--logits_vocab_size", "50000"]

    def times_logits(family):
        arguments = ["--one", family, "policy loss alone", *flags]
        printed = run_in_fork(str(BENCHMARKS / "settings.py"), arguments, tmp_path / family)
        result = json.loads(printed.splitlines()[-1])
        assert result["times_logits"] == pytest.approx(result["megabytes"] * 1e6 / (4 * 8 * 16 * 50000))
        return result["times_logits"]

    assert times_logits("gpt2") < 1 < 3 < times_logits("gemma2")


def test_each_loss_is_measured_in_a_process_of_its_own(monkeypatch):
    commands = []

    def run(command, **kwargs):
        commands.append(command)
        line = json.dumps({"megabytes": 1.0, "times_logits": float(len(commands)), "peak_was_reset": True})
        return subprocess.CompletedProcess(command, 0, stdout=f"noise\n{line}\n")

    monkeypatch.setattr(settings.subprocess, "run", run)
    sizes = {"logits_batch_size": 2, "logits_length": 3, "logits_vocab_size": 5}
    result = settings.measure_logits(Namespace(**sizes))
    assert len(commands) == 2 * (5 + 1)
    assert commands[0][2:] == [
        "--one", "gpt2", "policy loss alone", "--logits_batch_size", "2", "--logits_length", "3",
        "--logits_vocab_size", "5",
    ]  # fmt: skip
    assert settings.logits_table(result).splitlines()[-1] == "| rollouts | 6.0 | 12.0 |"


def test_a_head_that_cannot_be_split_off_is_not_measured_as_one_that_can(monkeypatch):
    monkeypatch.setattr(settings, "FAMILIES", {"gpt2": False})
    message = "The head of GPT2LMHeadModel could be split off, against what is measured."
    with pytest.raises(RuntimeError, match=re.escape(message)):
        settings.build_tiny("gpt2", 50, 4)


def test_the_page_on_scaling_says_what_was_measured():
    result = json.loads((BENCHMARKS / "results" / "settings.json").read_text())
    page = (BENCHMARKS.parent / "docs" / "scaling.md").read_text()
    tables = settings.render_tables(result["results"])
    assert set(tables) == {"changes", "rollout_batch_size", "logits"}
    assert performance.insert_tables(page, tables) == page
