"""
Measure how much memory rollouts take, with their scores, against the number of rollouts and the batch size.

    OMP_NUM_THREADS=1 python benchmarks/memory.py --save benchmarks/results/memory.json

Each point is a process of its own: what one point leaves behind would hide what the next one needs.
"""

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from measuring import finish, make_parser, peak_resident_bytes, progress, reset_peak, resident_bytes, summary

torch.set_num_threads(1)

# The peak of a process may grow by this share over a whole sweep.
BAR = 0.10
_PAPER_BATCH, _PAPER_ROLLOUTS = 64, 16


def measure_here(batch_size: int, num_rollouts: int, args: Namespace) -> dict[str, Any]:
    """
    Roll out and score in this process, streaming through the paper's discriminator.

    Args:
        batch_size (`int`): Completions.
        num_rollouts (`int`): Of each prefix.
        args (`Namespace`): `length`, `vocab_size` and `rollout_batch_size`.

    Returns:
        `dict`: megabytes `before`, at the `peak`, and their difference `growth`; and whether the system let the peak be
        reset (`peak_was_reset`). If not, it may stem from before the rollouts, and `growth` is an upper bound.
    """
    # Here, because the process that starts the others needs none of it.
    from rollouts import build_model, write_completions

    from seqgan_hf.discriminator import Discriminator
    from seqgan_hf.models import TextCNNConfig, TextCNNForSequenceClassification
    from seqgan_hf.rollout import score_rollouts

    generator = build_model("lstm", args.vocab_size, args.length)
    discriminator = Discriminator(
        TextCNNForSequenceClassification(TextCNNConfig(vocab_size=args.vocab_size, pad_token_id=0)),
        generator_processing_class=None,
        processing_class=None,
        reads_prompt=False,
        pad_token_id=0,
        generator_vocab_size=args.vocab_size,
        pad_is_a_token=True,
        score_batch_size=args.rollout_batch_size,
    )
    completions, generation_config = write_completions(generator, batch_size, args.length)
    was_reset = reset_peak()
    before = resident_bytes()
    scores, _ = score_rollouts(
        generator, completions, discriminator.score, generation_config, num_rollouts, 1, args.rollout_batch_size
    )
    peak = peak_resident_bytes()
    expected = (num_rollouts, batch_size, args.length)
    if tuple(scores.shape) != expected:
        raise RuntimeError(f"Scores of shape {tuple(scores.shape)} came back; expected {expected}.")
    return {"before": before / 1e6, "peak": peak / 1e6, "growth": (peak - before) / 1e6, "peak_was_reset": was_reset}


def measure_elsewhere(batch_size: int, num_rollouts: int, args: Namespace) -> dict[str, Any]:
    """Do the same in a fresh process."""
    flags = {name: getattr(args, name) for name in ("length", "vocab_size", "rollout_batch_size")}
    command = [sys.executable, str(Path(__file__).resolve()), "--one", str(batch_size), str(num_rollouts)]
    command += [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure_sweeps(args: Namespace) -> dict[str, Any]:
    """
    Measure each point of both sweeps once a repeat, in turns; a point that both have is measured for both.

    Args:
        args (`Namespace`): Of the script.

    Returns:
        `dict`: for each sweep its `points`, medians over the repeats, the `relative_growth` of the whole peak from the
        first point to the last, and whether that is `below_bar`.
    """
    sweeps = {
        "num_rollouts": [(args.batch_size, count) for count in args.sweep_num_rollouts],
        "batch_size": [(count, args.num_rollouts) for count in args.sweep_batch_size],
    }
    points = list(dict.fromkeys(point for sweep in sweeps.values() for point in sweep))
    runs: dict[tuple[int, int], list[dict[str, Any]]] = {point: [] for point in points}
    for turn in range(args.repeats):
        for batch_size, num_rollouts in points:
            run = measure_elsewhere(batch_size, num_rollouts, args)
            runs[batch_size, num_rollouts].append(run)
            progress(
                f"repeat {turn + 1}/{args.repeats}  batch {batch_size}, {num_rollouts} rollouts: "
                f"peak {run['peak']:.0f} MB, {run['growth']:.0f} MB over what was there before"
            )
    results: dict[str, Any] = {}
    for name, sweep in sweeps.items():
        rows = [{"batch_size": point[0], "num_rollouts": point[1], **_megabytes(runs[point])} for point in sweep]
        relative = rows[-1]["peak_megabytes"]["median"] / rows[0]["peak_megabytes"]["median"] - 1
        results[name] = {"points": rows, "relative_growth": relative, "bar": BAR, "below_bar": relative < BAR}
    results["peak_was_reset"] = all(run["peak_was_reset"] for point in runs.values() for run in point)
    return results


def _megabytes(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    return {f"{what}_megabytes": summary([run[what] for run in runs]) for what in ("before", "peak", "growth")}


def main() -> None:
    parser = make_parser(__doc__, repeats=1)
    parser.add_argument("--batch_size", type=int, default=_PAPER_BATCH, help="Completions while N is swept.")
    parser.add_argument("--num_rollouts", type=int, default=_PAPER_ROLLOUTS, help="Rollouts while B is swept.")
    parser.add_argument("--sweep_num_rollouts", type=int, nargs="+", default=[16, 32, 64, 128], help="Values of N.")
    parser.add_argument("--sweep_batch_size", type=int, nargs="+", default=[64, 128, 256, 512], help="Values of B.")
    parser.add_argument("--length", type=int, default=20, help="Tokens of a completion.")
    parser.add_argument("--vocab_size", type=int, default=5000, help="Tokens of the vocabulary.")
    parser.add_argument("--rollout_batch_size", type=int, default=1024, help="The most rollouts alive.")
    parser.add_argument("--one", type=int, nargs=2, metavar=("B", "N"), help="Measure one point in this process.")
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(measure_here(*args.one, args)))
        return
    names = ("batch_size", "num_rollouts", "length", "vocab_size", "rollout_batch_size")
    finish("memory", args, {name: getattr(args, name) for name in names}, measure_sweeps(args))


if __name__ == "__main__":
    main()
