"""
Time Monte Carlo rollouts: in lockstep, by a call of `generate` for each prefix, and by a lean loop over an LSTM.

    OMP_NUM_THREADS=1 python benchmarks/rollouts.py --setting paper --save benchmarks/results/rollouts_paper.json

All sample the same number of tokens from the same model; the script checks it. Seconds are the CPU's, or wall seconds
with `--device cuda`.
"""

import copy
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from measuring import (
    clock_of,
    finish,
    floor_of,
    hardware_rates,
    hardware_tasks,
    interleave,
    make_parser,
    progress,
    ratios,
    summary,
)
from operations import projection_operations, rollout_operations, sampled_tokens
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from seqgan_hf.completions import Completions
from seqgan_hf.data import TextFormat
from seqgan_hf.generation import generate_completions, sampling_config
from seqgan_hf.models import LSTMConfig, LSTMForCausalLM
from seqgan_hf.rollout import rollout

torch.set_num_threads(1)

_START = 0
_SPECIAL = {"bos_token_id": _START, "eos_token_id": None, "pad_token_id": 0}
# Rows whose logits over 5,000 words stay in a core's cache.
_BLOCK_ROWS = 64


@dataclass(frozen=True)
class Finished:
    """
    Some finished sequences.

    Args:
        completion_ids (`torch.Tensor` of shape `(num_sequences, length)`): Forced prefix included.
        row (`torch.Tensor` of shape `(num_sequences,)`): The completion that each was forked from.
        prefix_length (`torch.Tensor` of shape `(num_sequences,)`): How many of its tokens were kept.
    """

    completion_ids: torch.Tensor
    row: torch.Tensor
    prefix_length: torch.Tensor


Method = Callable[[PreTrainedModel, Completions, GenerationConfig, int], Iterable[Finished]]


@dataclass(frozen=True)
class Setting:
    """
    A model and the size of its rollouts.

    Args:
        family (`str`): `lstm`, `gpt2` or `llama`.
        batch_size, length, num_rollouts, vocab_size (`int`): B, T, N and V.
    """

    family: str
    batch_size: int
    length: int
    num_rollouts: int
    vocab_size: int


SETTINGS = {
    "paper": Setting("lstm", batch_size=64, length=20, num_rollouts=16, vocab_size=5000),
    "gpt2": Setting("gpt2", batch_size=16, length=64, num_rollouts=8, vocab_size=8000),
    "llama": Setting("llama", batch_size=16, length=64, num_rollouts=8, vocab_size=8000),
}


def build_model(family: str, vocab_size: int, length: int) -> PreTrainedModel:
    """
    Draw a generator without EOS: the paper's LSTM 32/32, or 4 layers of attention, 256 wide, with 4 heads.

    Args:
        family (`str`): `lstm`, `gpt2` or `llama`.
        vocab_size (`int`): Tokens.
        length (`int`): Tokens of a completion, which it must be able to read behind a start token.
    """
    torch.manual_seed(0)
    positions = length + 1
    if family == "lstm":
        return LSTMForCausalLM(LSTMConfig(vocab_size=vocab_size, **_SPECIAL)).eval()
    if family == "gpt2":
        shape = {"n_layer": 4, "n_embd": 256, "n_head": 4, "n_positions": positions}
        return GPT2LMHeadModel(GPT2Config(vocab_size=vocab_size, **shape, **_SPECIAL)).eval()
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size, num_hidden_layers=4, hidden_size=256, intermediate_size=1024,
            num_attention_heads=4, max_position_embeddings=positions, **_SPECIAL,
        )
    ).eval()  # fmt: skip


def write_completions(model: PreTrainedModel, batch_size: int, length: int) -> tuple[Completions, GenerationConfig]:
    """Sample completions of full length behind a start token, and return them with the settings of their sampling."""
    generation_config = sampling_config(TextFormat.from_model(model, None, length))
    prompt_ids = torch.full((batch_size, 1), _START, device=model.device)
    return generate_completions(model, prompt_ids, torch.ones_like(prompt_ids), generation_config), generation_config


# ---- What is compared ----------------------------------------------------------------------------------------------


def lockstep(
    model: PreTrainedModel,
    completions: Completions,
    generation_config: GenerationConfig,
    num_rollouts: int,
    batch_size: int | None,
    stride: int = 1,
) -> Iterator[Finished]:
    """Roll out by the package: every rollout that forked before a position advances in one forward pass."""
    for chunk in rollout(model, completions, generation_config, num_rollouts, stride, batch_size):
        yield Finished(chunk.completions.completion_ids, chunk.row, chunk.prefix_length)


@torch.inference_mode()
def generate_each_prefix(
    model: PreTrainedModel, completions: Completions, generation_config: GenerationConfig, num_rollouts: int
) -> Iterator[Finished]:
    """Roll out by a call of `generate` for each prefix length: it encodes the prefixes anew, then uses its cache."""
    prompt_length, length = completions.prompt_ids.shape[1], completions.completion_ids.shape[1]
    sequences = torch.cat([completions.prompt_ids, completions.completion_ids], dim=1)
    for prefix_length in range(1, length):
        settings = copy.deepcopy(generation_config)
        settings.max_new_tokens = settings.min_new_tokens = length - prefix_length
        prefixes = sequences[:, : prompt_length + prefix_length].repeat(num_rollouts, 1)
        output = model.generate(prefixes, attention_mask=torch.ones_like(prefixes), generation_config=settings)
        yield _all_of_one_length(output[:, prompt_length:], completions, prefix_length)


@torch.inference_mode()
def lean_loop(
    model: LSTMForCausalLM, completions: Completions, generation_config: GenerationConfig, num_rollouts: int
) -> Iterator[Finished]:
    """
    Roll out an LSTM as one would write it by hand: its state is carried along, so that no prefix is encoded twice, and
    all rollouts of one prefix length step to the end together, by `torch.multinomial`.
    """
    ids, length = completions.completion_ids, completions.completion_ids.shape[1]
    _, state = model.lstm(model.embeddings(completions.prompt_ids))
    for prefix_length in range(1, length):
        output, state = model.lstm(model.embeddings(ids[:, prefix_length - 1 : prefix_length]), state)
        tokens = [ids[:, :prefix_length].repeat(num_rollouts, 1)]
        forked, forked_output = (
            tuple(part.repeat(1, num_rollouts, 1) for part in state),
            output.repeat(num_rollouts, 1, 1),
        )
        for position in range(prefix_length, length):
            probabilities = torch.softmax(model.lm_head(forked_output[:, -1]).float(), dim=-1)
            tokens.append(torch.multinomial(probabilities, num_samples=1))
            if position + 1 < length:
                forked_output, forked = model.lstm(model.embeddings(tokens[-1]), forked)
        yield _all_of_one_length(torch.cat(tokens, dim=1), completions, prefix_length)


def _all_of_one_length(completion_ids: torch.Tensor, completions: Completions, prefix_length: int) -> Finished:
    row = torch.arange(len(completion_ids), device=completion_ids.device) % len(completions)
    return Finished(completion_ids, row, torch.full_like(row, prefix_length))


# ---- Checks --------------------------------------------------------------------------------------------------------


def count_sampled(finished: Iterable[Finished], completions: Completions) -> int:
    """
    Count the sampled tokens of finished sequences.

    Args:
        finished (`Iterable[Finished]`): Of one method.
        completions (`Completions`): What they were forked from.

    Returns:
        `int`

    Raises:
        RuntimeError: If a sequence has not the completions' length or changed the prefix that it was to keep.
    """
    length, count = completions.completion_ids.shape[1], 0
    for part in finished:
        if part.completion_ids.shape[1] != length:
            raise RuntimeError(f"Sequences of {part.completion_ids.shape[1]} tokens came back; expected {length}.")
        kept = torch.arange(length, device=part.row.device) < part.prefix_length.unsqueeze(1)
        changed = (part.completion_ids != completions.completion_ids[part.row]) & kept
        if bool(changed.any()):
            raise RuntimeError(f"{int(changed.sum())} tokens of the prefixes were changed; a rollout must keep them.")
        count += int((~kept).sum())
    return count


def count_forward_passes(model: PreTrainedModel, run: Callable[[], Iterable[Any]]) -> int:
    """Count how often `run`, consumed, calls the model."""
    calls: list[None] = []
    hook = model.register_forward_hook(lambda *_: calls.append(None))
    try:
        for _ in run():
            pass
    finally:
        hook.remove()
    return len(calls)


# ---- The script ----------------------------------------------------------------------------------------------------


def add_flags(parser: ArgumentParser) -> None:
    """Add the flags of this script."""
    parser.add_argument("--setting", choices=SETTINGS, default="paper", help="Model and sizes.")
    parser.add_argument("--device", default="cpu", help="cpu or cuda.")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="Of the model.")
    parser.add_argument("--batch_size", type=int, help="Completions; the setting's by default.")
    parser.add_argument("--length", type=int, help="Tokens of a completion; the setting's by default.")
    parser.add_argument("--num_rollouts", type=int, help="Rollouts of each prefix; the setting's by default.")
    parser.add_argument("--vocab_size", type=int, help="Tokens of the vocabulary; the setting's by default.")
    parser.add_argument("--rollout_batch_size", type=int, default=1024, help="The most rollouts alive in lockstep.")


def measure(setting: Setting, args: Namespace) -> dict[str, Any]:
    """
    Compare the methods in one setting.

    Args:
        setting (`Setting`): Model and sizes.
        args (`Namespace`): `device`, `dtype`, `rollout_batch_size` and `repeats`.

    Returns:
        `dict`: `methods`, `forward_passes`, `floor` and `hardware`.

    Raises:
        RuntimeError: If a method did not sample N x B x T (T - 1) / 2 tokens.
    """
    dtype, clock = getattr(torch, args.dtype), clock_of(args.device)
    model = build_model(setting.family, setting.vocab_size, setting.length).to(args.device, dtype)
    completions, generation_config = write_completions(model, setting.batch_size, setting.length)
    methods: dict[str, Method] = {
        "lockstep": partial(lockstep, batch_size=args.rollout_batch_size),
        "generate for each prefix": generate_each_prefix,
    }
    if setting.family == "lstm":
        methods["lean loop"] = lean_loop

    for name, method in methods.items():
        progress(f"warm-up  {name}")
        for _ in method(model, completions.select(slice(2)), generation_config, 1):
            pass
    # Rollouts of one chunk share their passes, so their number does not depend on how many there are.
    passes = {
        str(batch_size): count_forward_passes(
            model, partial(lockstep, model, completions, generation_config, num_rollouts, batch_size)
        )
        for num_rollouts, batch_size in ((setting.num_rollouts, args.rollout_batch_size), (1, None))
    }

    width = model.get_output_embeddings().weight.shape[1]
    tasks: dict[str, Callable[[], Any]] = {
        name: partial(consume, method, model, completions, generation_config, setting.num_rollouts)
        for name, method in methods.items()
    }
    blocks = {"logits": (_BLOCK_ROWS, width, setting.vocab_size)}
    measured = interleave(tasks | hardware_tasks(blocks, args.device, dtype), args.repeats, clock)

    expected = sampled_tokens(setting.batch_size, setting.length, setting.num_rollouts)
    rates = hardware_rates(measured)
    operations = rollout_operations(model, setting.batch_size, setting.length, setting.num_rollouts)
    floor = floor_of(operations, 0, rates)
    floor["seconds_at_the_rate_of_logits"] = floor["gflop"] / rates["multiply logits"]["median"]
    results = {}
    for name in methods:
        for finished in measured[name].values:
            if (count := count_sampled(finished, completions)) != expected:
                raise RuntimeError(f"`{name}` sampled {count} tokens; expected {expected}.")
        seconds = summary(measured[name].seconds)
        results[name] = {
            "seconds": seconds,
            "sampled_tokens": expected,
            "tokens_per_second": expected / seconds["median"],
            "times_lockstep": ratios(measured[name].seconds, measured["lockstep"].seconds),
            "times_floor": seconds["median"] / floor["seconds"],
        }
    return {
        "methods": results,
        "projection_gflop": projection_operations(model) * expected / 1e9,
        "floor": floor,
        "forward_passes": {
            "rollout_batch_size": args.rollout_batch_size,
            "passes": passes[str(args.rollout_batch_size)],
            "passes_in_one_chunk": passes["None"],
            "at_most_length_in_one_chunk": passes["None"] <= setting.length,
        },
        "hardware": rates,
    }


def consume(method: Method, *arguments: Any) -> list[Finished]:
    """Run a method to its end."""
    return list(method(*arguments))


def main() -> None:
    parser = make_parser(__doc__)
    add_flags(parser)
    args = parser.parse_args()
    sizes = {name: getattr(args, name) for name in ("batch_size", "length", "num_rollouts", "vocab_size")}
    setting = replace(SETTINGS[args.setting], **{name: size for name, size in sizes.items() if size is not None})
    results = measure(setting, args)
    names = ("setting", "device", "dtype", "rollout_batch_size")
    settings = {**vars(setting), **{name: getattr(args, name) for name in names}}
    if args.device != "cpu":
        settings["device_name"] = torch.cuda.get_device_name(args.device)
    finish("rollouts", args, settings, results)


if __name__ == "__main__":
    main()
