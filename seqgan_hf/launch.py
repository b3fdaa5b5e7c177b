"""How a process was launched: what it may not be told, and where its networks and files go."""

import torch
from accelerate.utils import parse_flag_from_env
from transformers import PreTrainedModel
from transformers.utils import logging

from .config import SeqGANConfig

logger = logging.get_logger(__name__)


def check_launch(args: SeqGANConfig) -> None:
    """
    Refuse a launch that would shard the generator; of several GPUs that one process sees take one.

    Args:
        args (`SeqGANConfig`): The settings.

    Raises:
        ValueError: If the settings or the launcher ask for shards.
    """
    asked = {
        "DeepSpeed": args.deepspeed or parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"),
        "FSDP": args.fsdp or parse_flag_from_env("ACCELERATE_USE_FSDP"),
        "Tensor or context parallelism": args.parallelism_config
        or parse_flag_from_env("ACCELERATE_USE_PARALLELISM_CONFIG"),
    }
    if sharding := [name for name, is_asked in asked.items() if is_asked]:
        raise ValueError(
            f"{sharding[0]} is not supported: each process writes with the generator, and SeqGANTrainer keeps the whole "
            "of it there. Launch with recipes/accelerate/ddp.yaml; if it does not fit, train an adapter (`peft_config`), "
            "of a quantised generator perhaps."
        )
    if args.n_gpu > 1:
        logger.info("Several GPUs are visible to one process; one is used.")
        args._n_gpu = 1


def on_device(model: PreTrainedModel, args: SeqGANConfig) -> PreTrainedModel:
    """Return a network on this process's device; one that was loaded in 4 or 8 bits is in its place, and stays."""
    return model if getattr(model, "is_quantized", False) else model.to(args.device)  # type: ignore[arg-type]


def place_of_files(args: SeqGANConfig) -> torch.device:
    """Return the device as `torch.load` knows it: that of one of several processes on a CPU has a number."""
    return torch.device("cpu") if args.device.type == "cpu" else args.device
