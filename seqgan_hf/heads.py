"""The output head, apart from its model: what it projects can then go block by block, and never exist as a whole."""

import contextlib
import weakref
from collections.abc import Iterator

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from .adapters import without_adapter
from .states import dropout_off

# By model, and by its head: a model may get another, and two may share one.
_Verdicts = weakref.WeakKeyDictionary[nn.Module, bool]
_ends_with_head: weakref.WeakKeyDictionary[nn.Module, _Verdicts] = weakref.WeakKeyDictionary()


def split_head(model: nn.Module) -> nn.Linear | None:
    """
    Find the linear layer that a model's logits come from, if they are its output and nothing else.

    A model that caps, scales or masks its logits, compiled and sharded ones, and heads that are quantised, sharded,
    adapted or hooked are left whole. What a model does with its logits is found out once, so do not change it (a
    `logit_scale`) between calls.

    Args:
        model (`nn.Module`): A causal language model, also behind PEFT's wrapper.

    Returns:
        `nn.Linear`, or `None` where the model must be called as it is.
    """
    # Where this wrapper looks for parameters that its forward pass left out, a head that is used later is one of them.
    if isinstance(model, DistributedDataParallel) and not model.find_unused_parameters:
        model = model.module
    if isinstance(model, FSDPModule) or hasattr(model, "module") or hasattr(model, "_orig_mod"):
        return None
    if not hasattr(model, "get_output_embeddings"):
        return None
    head = model.get_output_embeddings()  # type: ignore[operator]
    if not _is_plain(head):
        return None
    known = _ends_with_head.setdefault(
        without_adapter(model),
        weakref.WeakKeyDictionary(),
    )
    if head not in known:
        known[head] = _logits_are_its_output(model, head)
    return head if known[head] else None


@contextlib.contextmanager
def without_head(head: nn.Linear | None) -> Iterator[None]:
    """
    Let a model return, as its logits, what it would project to them.

    Args:
        head (`nn.Linear`, *optional*): From [`split_head`]; `None` changes nothing.
    """
    if head is None:
        yield
        return
    with _forward_replaced(head, lambda states: states):
        yield


@contextlib.contextmanager
def _forward_replaced(head: nn.Linear, forward: object) -> Iterator[None]:
    vars(head)["forward"] = forward
    try:
        yield
    finally:
        del vars(head)["forward"]


def _is_plain(head: object) -> bool:
    # A subclass of `nn.Linear` is an adapter's or a quantiser's, one of `Parameter` a shard; accelerate's hooks replace
    # `forward`, and DeepSpeed marks the weights that it took away.
    return (
        type(head) is nn.Linear
        and type(head.weight) is nn.Parameter
        and not hasattr(head.weight, "ds_id")
        and not (head._forward_hooks or head._forward_pre_hooks or "forward" in vars(head))
    )


@torch.no_grad()
def _logits_are_its_output(model: nn.Module, head: nn.Linear) -> bool:
    """Put known numbers where the logits should come from, and see whether they come out unchanged."""
    weight = head.weight
    if head.bias is not None and not bool(head.bias.isfinite().all()):
        return False  # a token that is never written: its entropy needs care that blocks do not take
    known = torch.linspace(-90.0, 90.0, weight.shape[0], device=weight.device, dtype=weight.dtype)
    token = torch.zeros(1, 1, dtype=torch.long, device=weight.device)
    with dropout_off(model), _forward_replaced(head, lambda states: known.expand(*states.shape[:-1], -1)):
        logits = model(input_ids=token, attention_mask=torch.ones_like(token)).logits
    return logits.shape == (1, 1, len(known)) and torch.equal(logits[0, 0], known.to(logits.dtype))
