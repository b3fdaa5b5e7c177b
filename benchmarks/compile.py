"""
Ask whether torch.compile pays on a CPU: D's scoring and training steps, and G's decoding, as they are and compiled.

    OMP_NUM_THREADS=1 python benchmarks/compile.py --save benchmarks/results/compile.json

Compiling itself is timed apart, once. Of D one compiled graph serves all batches of one shape; of G, where rows come and
go at every position, each new shape is traced anew unless shapes are dynamic, so it is compiled with `dynamic=True`.
"""

import time
from collections.abc import Callable

import torch
from measuring import finish, interleave, make_parser, progress, ratios, summary
from torch import nn

from seqgan_hf.models import LSTMConfig, LSTMForCausalLM, TextCNNConfig, TextCNNForSequenceClassification

torch.set_num_threads(1)


def scoring(model: nn.Module, ids: torch.Tensor, calls: int) -> Callable[[], None]:
    """Return a task that scores one batch `calls` times."""

    def task() -> None:
        with torch.inference_mode():
            for _ in range(calls):
                model(input_ids=ids)

    return task


def training(model: nn.Module, ids: torch.Tensor, calls: int) -> Callable[[], None]:
    """Return a task of `calls` updates on one batch, with the optimizer that `Discriminator` has."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    labels = torch.arange(len(ids)) % 2

    def task() -> None:
        for _ in range(calls):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(input_ids=ids).logits, labels).backward()
            optimizer.step()

    return task


def decoding(model: nn.Module, ids: torch.Tensor, calls: int) -> Callable[[], None]:
    """Return a task of `calls` single steps of a generator, each of a row fewer."""

    def task() -> None:
        with torch.inference_mode():
            for call in range(calls):
                model(input_ids=ids[call:, :1], use_cache=True)

    return task


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--calls", type=int, default=20, help="Of the model, in each measurement.")
    args = parser.parse_args()
    torch.manual_seed(0)
    judge = TextCNNForSequenceClassification(TextCNNConfig())
    writer = LSTMForCausalLM(LSTMConfig()).eval()
    ids = torch.randint(0, 5000, (512, 20))
    compiled_judge, compiled_writer = torch.compile(judge), torch.compile(writer, dynamic=True)
    makers: dict[str, tuple[Callable, nn.Module, nn.Module, torch.Tensor]] = {
        "scoring, 512 texts": (scoring, judge, compiled_judge, ids),
        "training of D, 64 texts": (training, judge, compiled_judge, ids[:64]),
        "decoding, 512 rows": (decoding, writer, compiled_writer, ids),
    }
    results = {}
    for name, (make, plain, compiled, batch) in makers.items():
        judge.train(make is training)
        tasks = {"plain": make(plain, batch, args.calls), "compiled": make(compiled, batch, args.calls)}
        progress(f"{name}: compiling")
        start = time.process_time()
        tasks["compiled"]()
        first = time.process_time() - start
        measured = interleave(tasks, args.repeats)
        seconds = {kind: measured[kind].seconds for kind in tasks}
        results[name] = {kind: summary(values) for kind, values in seconds.items()} | {
            "compiled_over_plain": ratios(seconds["compiled"], seconds["plain"]),
            "first_call": first,
        }
    finish("compile", args, {"calls": args.calls}, results)


if __name__ == "__main__":
    main()
