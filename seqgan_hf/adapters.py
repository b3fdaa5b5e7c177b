"""Adapters around networks: what is one, what is inside, and where that lies."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import nn
from transformers.utils import CONFIG_NAME


def is_adapter(model: Any) -> bool:
    """Tell whether a network is an adapter around another one."""
    return hasattr(model, "get_base_model")


def without_adapter(model: Any) -> Any:
    """Return the network inside an adapter; one that is none as it is."""
    return model.get_base_model() if is_adapter(model) else model


def base_folders(*networks: Any) -> set[Path]:
    """
    Return the local folders of the models that adapters belong to.

    Args:
        *networks: Loaded; of those that are no adapter, and of models from the Hub, there is no folder.

    Returns:
        `set[Path]`: absolute.
    """
    names = [
        getattr(without_adapter(network).config, "_name_or_path", "") for network in networks if is_adapter(network)
    ]
    return {Path(name).resolve() for name in names if name and (Path(name) / CONFIG_NAME).is_file()}


def require_bases_elsewhere(bases: Collection[Path], *folders: Path) -> None:
    """
    Refuse to save where the model of an adapter lies: that of a folder with an adapter is removed.

    Args:
        bases (`Collection[Path]`): From [`base_folders`].
        *folders (`Path`): In which networks will be saved.

    Raises:
        ValueError: If one of them is the folder of such a model.
    """
    for folder in folders:
        if folder.resolve() in bases:
            raise ValueError(
                f"`output_dir` must leave the model alone that an adapter belongs to, and {folder} holds it. Give "
                "another one."
            )


def embedding_rows(model: nn.Module) -> int:
    """
    Return how many token ids a model's input embedding has a row for.

    Args:
        model (`nn.Module`): A transformers model, also where an adapter wraps its embedding.
    """
    weight = model.get_input_embeddings().weight  # type: ignore[operator]
    return int(weight.shape[0])
