"""How a process was launched: what it may not be told, and where its networks and files go."""

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, parse_flag_from_env
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy
from transformers import PreTrainedModel, TrainingArguments
from transformers.utils import logging

logger = logging.get_logger(__name__)

_INSTEAD = "Launch with recipes/accelerate/fsdp2.yaml, which shards it, or recipes/accelerate/ddp.yaml, which does not"


def check_launch(args: TrainingArguments) -> None:
    """
    Refuse what a generator cannot be launched with; of several GPUs that one process sees take one.

    Args:
        args (`TrainingArguments`): The settings.

    Raises:
        ValueError: If the settings or the launcher ask for it.
    """
    asked = {
        "DeepSpeed": args.deepspeed or parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"),
        "Tensor or context parallelism": args.parallelism_config
        or parse_flag_from_env("ACCELERATE_USE_PARALLELISM_CONFIG"),
    }
    if sharding := [name for name, is_asked in asked.items() if is_asked]:
        raise ValueError(
            f"{sharding[0]} is not supported: each process writes with the whole generator, which it gets together from "
            f"the shards of FSDP2 alone. {_INSTEAD}."
        )
    if args.n_gpu > 1:
        logger.info("Several GPUs are visible to one process; one is used.")
        args._n_gpu = 1


def are_shards_asked_for(accelerator: Accelerator, args: TrainingArguments) -> bool:
    """
    Tell whether the generator is to learn in shards.

    Args:
        accelerator (`Accelerator`): Knows what became of the launch. It is one for all of a process.
        args (`TrainingArguments`): The settings.

    Raises:
        ValueError: If shards are asked for and accelerate would make none, or others than those of FSDP2, or would keep
            them on the CPU.
    """
    has_shards = accelerator.distributed_type == DistributedType.FSDP
    if not (has_shards or args.fsdp or parse_flag_from_env("ACCELERATE_USE_FSDP")):
        return False
    if not has_shards:
        raise ValueError(
            f"FSDP was asked for, and accelerate shards nothing here: it takes GPUs, a launcher, and `fsdp` in the first "
            f"stage where it is in the second; got {args.world_size} processes on {args.device.type}. {_INSTEAD}."
        )
    if not accelerator.is_fsdp2:
        raise ValueError(f"FSDP is supported in its version 2; got `fsdp_version: 1`. {_INSTEAD}.")
    if isinstance(accelerator.state.fsdp_plugin.cpu_offload, CPUOffloadPolicy):
        raise ValueError(
            "`fsdp_offload_params` is not supported: the whole generator takes its weights from shards on the GPU after "
            "each update. Leave it out."
        )
    return True


def require_not_quantised(model: nn.Module) -> None:
    """
    Check that a generator can learn in shards.

    Args:
        model (`nn.Module`): The generator.

    Raises:
        ValueError: If it is quantised.
    """
    if getattr(model, "is_quantized", False):
        raise ValueError(
            "A quantised generator cannot learn in shards: it is small enough to be whole everywhere. Launch with "
            "recipes/accelerate/ddp.yaml, or leave `load_in_4bit` and `quantization_config` out."
        )


def on_device(model: PreTrainedModel, args: TrainingArguments) -> PreTrainedModel:
    """Return a network on this process's device; one that was loaded in 4 or 8 bits is in its place, and stays."""
    return model if getattr(model, "is_quantized", False) else model.to(args.device)  # type: ignore[arg-type]


def place_of_files(args: TrainingArguments) -> torch.device:
    """Return the device as `torch.load` knows it: that of one of several processes on a CPU has a number."""
    return torch.device("cpu") if args.device.type == "cpu" else args.device
