"""What a name stands for: ids, paths and files become models, tokenizers and texts, or one clear error."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, load_dataset
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from huggingface_hub import constants, file_exists, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME, find_adapter_config_file, is_peft_available, logging

from . import models as own_models  # noqa: F401  (registers our model types with the Auto classes)
from .adapters import without_adapter
from .hub import first_line

logger = logging.get_logger(__name__)

_FILE_LOADERS = {".txt": "text", ".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
# Of transformers, for a folder and for a repository.
_NO_SAFETENSORS = (
    "no file named model.safetensors",
    "have a file named model.safetensors",
    "adapter_model.safetensors",
)
_WHERE = ("cache_dir", "revision", "subfolder", "token")
# The first of whatever transformers saves; the others are of old repositories.
_TOKENIZER_FILES = (
    "tokenizer_config.json", "tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt",
    "sentencepiece.bpe.model", "sentencepiece.model", "spm.model", "bpe.codes", "prophetnet.tokenizer",
)  # fmt: skip
# Of layers as a whole (OPT), of what a sum adds to (stochastic depth), and a short form (GPT).
_DROPPED = ("layerdrop", "drop_prob", "pdrop")


@contextlib.contextmanager
def _explained(what: str, name: str) -> Iterator[None]:
    """Say what could not be had, and what can be done, when the Hub or a path fails."""
    try:
        yield
    # Whatever transformers, datasets and huggingface_hub raise in loading.
    except (OSError, DatasetsError, HFValidationError, HTTPError) as error:
        causes = _causes(error)
        # `datasets` cuts the chain of causes, and leaves its words alone.
        not_found = any(isinstance(cause, DatasetNotFoundError) for cause in causes)
        if any(isinstance(cause, GatedRepoError) for cause in causes) or (
            not_found and "is a gated dataset" in str(error)
        ):
            reason = (
                f"access to it is restricted. Accept its terms on its page ({constants.ENDPOINT}), then log in by "
                "`hf auth login` with a token of that account."
            )
        elif any(isinstance(cause, RevisionNotFoundError) for cause in causes) or str(error).startswith("Revision "):
            reason = "it has no such revision. Pass one of its branches, tags or commits."
        elif not_found or any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
            reason = (
                f"the Hub has no `{name}`, or it is private and you may not read it, and there is no such local path. "
                "Check the name; log in by `hf auth login` if it is yours."
            )
        elif any(said in str(error) for said in _NO_SAFETENSORS):
            reason = (
                "it has no weights as safetensors. Save them as such (`save_pretrained` does), or, if you trust "
                "whoever made its pickle, pass `use_safetensors` false in `model_init_kwargs` or "
                "`discriminator_init_kwargs`."
            )
        else:
            reason = (
                f"it is neither a local path nor could it be had from the Hugging Face Hub ({type(error).__name__}: "
                f"{first_line(error)}). Check the name and the connection, give a local path, or run a recipe with "
                "`--sample`, which needs no network."
            )
        raise OSError(f"Could not load {what}: {reason}") from error


def _causes(error: BaseException | None) -> list[BaseException]:
    causes = []
    while error is not None:
        causes.append(error)
        error = error.__cause__ or error.__context__
    return causes


def load_generator(model: str | PreTrainedModel, peft_config: Any | None = None, **kwargs: Any) -> Any:
    """
    Load a causal language model, or an adapter with the model it belongs to.

    Args:
        model (`str` or `PreTrainedModel`): Hub id, local path, or a model, which is returned as it is.
        peft_config (`PeftConfig`, *optional*): Wrap the model in a new adapter, which alone is trained.
        **kwargs: For `AutoModelForCausalLM.from_pretrained`; `dtype` is float32 unless given, because a policy gradient
            in pure bfloat16 loses its small updates.

    Returns:
        `PreTrainedModel`, or `PeftModel` if it has an adapter, which is then trainable.

    Raises:
        OSError: If it can be had neither locally nor from the Hub.
        ImportError: If there is an adapter and peft is not installed.
        ValueError: If `peft_config` is given for what has an adapter already.
    """
    return _load_network(AutoModelForCausalLM, "generator", model, peft_config, **kwargs)


def load_discriminator(model: str | PreTrainedModel, peft_config: Any | None = None, **kwargs: Any) -> Any:
    """
    Load a sequence classifier with two labels; a head that the checkpoint lacks is made new.

    Args:
        model (`str` or `PreTrainedModel`): Hub id, local path, or a model, which is returned as it is.
        peft_config (`PeftConfig`, *optional*): Wrap the model in a new adapter; it and the head are trained. Its task
            type must be `SEQ_CLS`.
        **kwargs: For `AutoModelForSequenceClassification.from_pretrained`; `num_labels` is 2 unless given.

    Returns:
        `PreTrainedModel`, or `PeftModel`

    Raises:
        OSError: If it can be had neither locally nor from the Hub.
        ImportError: If there is an adapter and peft is not installed.
        ValueError: If `peft_config` is given for what has an adapter already, or is for another task.
    """
    # Another task would save the adapter without the head, which is new and trained, too.
    if peft_config is not None and str(getattr(peft_config, "task_type", "SEQ_CLS")).rsplit(".")[-1] != "SEQ_CLS":
        raise ValueError(
            f"The discriminator's `peft_config` must have `task_type='SEQ_CLS'`; got {peft_config.task_type!r}. "
            "Without it the trained head would not be saved."
        )
    kwargs = {"num_labels": 2, **kwargs}
    return _load_network(AutoModelForSequenceClassification, "discriminator", model, peft_config, **kwargs)


def require_generator(model: Any) -> None:
    """
    Refuse what cannot be trained as the generator.

    Args:
        model: Passed as such, or loaded.

    Raises:
        TypeError: If it is no causal language model.
        ValueError: If nothing of it is to be trained, or it has no weights.
    """
    base = without_adapter(model)
    if not isinstance(base, PreTrainedModel) or not base.can_generate() or base.config.is_encoder_decoder:
        raise TypeError(
            f"The generator must be a causal language model; got {type(base).__name__}. Pass a name or path, or load "
            "one by `AutoModelForCausalLM.from_pretrained`."
        )
    _require_weights(model, "generator")


def require_discriminator(model: Any) -> None:
    """
    Refuse what cannot be trained as the discriminator; that it gives two logits a text is seen when it reads the first.

    Args:
        model: Passed as such, or loaded.

    Raises:
        TypeError: If it is no sequence classifier.
        ValueError: If nothing of it is to be trained, or it has no weights.
    """
    base = without_adapter(model)
    if not isinstance(base, PreTrainedModel) or base.can_generate():
        raise TypeError(
            f"The discriminator must be a sequence classifier; got {type(base).__name__}. Pass a name or path, or "
            "load one by `AutoModelForSequenceClassification.from_pretrained(..., num_labels=2)`."
        )
    _require_weights(model, "discriminator")


def require_tokenizer(processing_class: Any, name: str) -> None:
    """
    Refuse what is no tokenizer.

    Args:
        processing_class: What was passed; `None` is none.
        name (`str`): As what.

    Raises:
        TypeError: If it is something else.
    """
    if processing_class is not None and not isinstance(processing_class, PreTrainedTokenizerBase):
        raise TypeError(
            f"`{name}` must be a tokenizer; got {type(processing_class).__name__}. Load it by "
            "`AutoTokenizer.from_pretrained`."
        )


def _require_weights(model: nn.Module, role: str) -> None:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError(
            f"The {role} has weights on the device `meta`, which are shapes without numbers. Load it without "
            "`init_empty_weights` or `device_map='meta'`."
        )
    if not trained:
        raise ValueError(
            f"Nothing of the {role} is to be trained: all its parameters have `requires_grad=False`. Set it to "
            "`True`, or pass a `peft_config`."
        )
    if low := {str(parameter.dtype) for parameter in trained} & {"torch.float16", "torch.bfloat16"}:
        logger.warning(
            f"The {role} is trained in {low.pop()}, where small updates are lost. Load it in float32, and set `bf16` "
            "to compute in half precision."
        )


def _load_network(auto_class: Any, role: str, model: Any, peft_config: Any | None, **kwargs: Any) -> Any:
    if isinstance(model, str):
        # Launched with FSDP, transformers would read what the first process of a machine has, and leave weights that are
        # new in the others without a place. Each process writes with the whole.
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
        # A pickle may run code where it is read.
        kwargs = {"dtype": torch.float32, "use_safetensors": True, **kwargs}
        with _explained(f"the {role} `{model}`", model):
            adapter = _adapter_config(model, **kwargs)
            if adapter is None:
                model = _load_whole(auto_class, model, **kwargs)
            else:
                model = _load_adapter(auto_class, model, adapter, **kwargs)
    if peft_config is None:
        return model
    _require_peft("`peft_config`")
    from peft import PeftModel, get_peft_model, prepare_model_for_kbit_training

    if isinstance(model, PeftModel):
        raise ValueError(
            f"The {role} has an adapter already, so `peft_config` would put one on the other. Leave `peft_config` out "
            "to train that adapter on, or merge it first (`seqgan_hf.merge_adapter`)."
        )
    if getattr(model, "is_quantized", False):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return get_peft_model(model, peft_config)


def _load_whole(auto_class: Any, name: str, **kwargs: Any) -> PreTrainedModel:
    # transformers 5.23 takes an adapter at the root for what is in the subfolder.
    if "subfolder" in kwargs and (Path(name) / kwargs["subfolder"]).is_dir():
        name = str(Path(name) / kwargs.pop("subfolder"))
    elif "subfolder" in kwargs and is_peft_available():
        kwargs["adapter_kwargs"] = {"subfolder": kwargs["subfolder"]}
    return auto_class.from_pretrained(name, **kwargs)


def _adapter_config(name: str, **kwargs: Any) -> str | None:
    """Return the file that describes an adapter, if `name` is one and not a whole model that peft need not know."""
    hub = _picked(kwargs, _WHERE)
    if (Path(name) / hub.get("subfolder", "") / "config.json").is_file():
        return None
    return find_adapter_config_file(name, **hub)


def _load_adapter(auto_class: Any, name: str, adapter_config: str, **kwargs: Any) -> Any:
    _require_peft(f"`{name}` is an adapter and")
    from peft import PeftModel

    hub = _picked(kwargs, _WHERE)
    for key in ("revision", "subfolder"):
        kwargs.pop(key, None)
    folder = Path(name) / hub.get("subfolder", "")
    if (folder / "adapter_model.bin").is_file() and not (folder / "adapter_model.safetensors").is_file():
        raise OSError(f"{folder} has no adapter_model.safetensors")  # peft would read the pickle
    described = json.loads(Path(adapter_config).read_text(encoding="utf-8"))
    if described.get("revision"):
        kwargs["revision"] = described["revision"]  # of the model that the adapter was trained on
    model = auto_class.from_pretrained(described["base_model_name_or_path"], **kwargs)
    return PeftModel.from_pretrained(model, name, is_trainable=True, **hub)


def hub_arguments(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """
    Pick what a network's tokenizer must be told, too: where it is, and who may read it.

    Args:
        kwargs (`Mapping`): For `from_pretrained` of the network.

    Returns:
        `dict`: for `from_pretrained` of the tokenizer.
    """
    return _picked(kwargs, (*_WHERE, "trust_remote_code"))


def _picked(kwargs: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: kwargs[key] for key in keys if key in kwargs}


def _require_peft(what: str) -> None:
    if not is_peft_available():
        raise ImportError(f"{what} needs the package peft: pip install 'seqgan_hf[peft]'.")


def merge_adapter(adapter: str, output_dir: str | Path, **kwargs: Any) -> PreTrainedModel:
    """
    Merge a generator's adapter into the model it belongs to, and save the whole, which needs no peft.

    Args:
        adapter (`str`): Hub id or local path of the adapter, such as the `output_dir` of a run with `peft_config`.
        output_dir (`str` or `Path`): Where the merged model and its tokenizer are written.
        **kwargs: For `AutoModelForCausalLM.from_pretrained`, such as `dtype`.

    Returns:
        `PreTrainedModel`: the merged model.

    Raises:
        OSError: If the adapter, or the model it belongs to, cannot be had.
        ValueError: If it has no adapter.
    """
    model = load_generator(adapter, **kwargs)
    if not hasattr(model, "merge_and_unload"):
        raise ValueError(f"`{adapter}` has no adapter to merge: it is a whole model already. Load it as it is.")
    merged = model.merge_and_unload()
    tokenizer = find_tokenizer(adapter, **hub_arguments(kwargs))
    merged.save_pretrained(output_dir)
    if tokenizer is not None:
        tokenizer.save_pretrained(output_dir)
    return merged


def switch_off_dropout(model: nn.Module) -> None:
    """
    Set every dropout of a model to 0, in place; its configuration stays.

    A policy gradient needs the log-probabilities of the distribution that was sampled, and sampling has no dropout.
    Falcon and Persimmon read theirs from the configuration: load these with 0, by `model_init_kwargs`.

    Args:
        model (`nn.Module`): The generator. Its dropout is a layer of its own, or a probability that a layer keeps.
    """
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and ("dropout" in name or name.endswith(_DROPPED)):
                setattr(module, name, 0.0)


def load_tokenizer(name_or_path: str, **kwargs: Any) -> PreTrainedTokenizerBase:
    """
    Load a tokenizer.

    Args:
        name_or_path (`str`): Hub id or local path.
        **kwargs: For `AutoTokenizer.from_pretrained`, such as `revision`.

    Returns:
        `PreTrainedTokenizerBase`

    Raises:
        OSError: If it can be had neither locally nor from the Hub, or the model was saved without one.
    """
    where = _picked(kwargs, _WHERE)
    with _explained(f"the tokenizer of `{name_or_path}`", name_or_path):
        # `AutoTokenizer` would make up an empty one for some models, and raise for others.
        is_missing = not _any_saved(name_or_path, _TOKENIZER_FILES, where)
        if not (is_missing and _any_saved(name_or_path, (CONFIG_NAME, ADAPTER_CONFIG_NAME), where)):
            return AutoTokenizer.from_pretrained(name_or_path, **kwargs)
    raise OSError(
        f"Could not load the tokenizer of `{name_or_path}`: the model was saved without one. Save it there by "
        "`tokenizer.save_pretrained`, or pass one that you have loaded."
    )


def find_tokenizer(name_or_path: str, **kwargs: Any) -> PreTrainedTokenizerBase | None:
    """
    Load the tokenizer that was saved with a model, if there is one.

    Args:
        name_or_path (`str`): Hub id or local path of the model.
        **kwargs: For `AutoTokenizer.from_pretrained`, such as `revision` and `subfolder`.

    Returns:
        `PreTrainedTokenizerBase`, or `None`: the model is of ids alone.
    """
    where = _picked(kwargs, _WHERE)
    if not any(is_saved(name_or_path, filename, **where) for filename in _TOKENIZER_FILES):
        return None
    with _explained(f"the tokenizer of `{name_or_path}`", name_or_path):
        return AutoTokenizer.from_pretrained(name_or_path, **kwargs)


def is_saved(name_or_path: str, filename: str, **kwargs: Any) -> bool:
    """
    Tell whether a file was saved with a model.

    Args:
        name_or_path (`str`): Hub id or local path of the model.
        filename (`str`): Of the file.
        **kwargs: `revision`, `subfolder`, `token` and `cache_dir`.

    Returns:
        `bool`

    Raises:
        OSError: If the Hub has to be asked and does not answer: nobody knows then.
    """
    with _explained(f"`{_place(filename, kwargs)}` of `{name_or_path}`", name_or_path):
        return _any_saved(name_or_path, (filename,), kwargs)


def _any_saved(name_or_path: str, filenames: Sequence[str], where: Mapping[str, Any]) -> bool:
    places = [_place(filename, where) for filename in filenames]
    if Path(name_or_path).is_dir():
        return any((Path(name_or_path) / place).is_file() for place in places)
    return any(_is_on_hub(name_or_path, place, where) for place in places)


def _is_on_hub(name: str, place: str, where: Mapping[str, Any]) -> bool:
    revision = where.get("revision")
    cached = try_to_load_from_cache(name, place, where.get("cache_dir"), revision)
    if isinstance(cached, str) or constants.HF_HUB_OFFLINE:
        return isinstance(cached, str)
    return file_exists(name, place, revision=revision, token=where.get("token"))


def _place(filename: str, where: Mapping[str, Any]) -> str:
    return f"{where['subfolder']}/{filename}" if where.get("subfolder") else filename


def load_texts(
    name_or_path: str,
    config_name: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
) -> DatasetDict | IterableDatasetDict | Dataset | IterableDataset:
    """
    Load texts from the Hub, a web address, a local file or a local folder.

    Args:
        name_or_path (`str`): Hub id; URL or path of a txt, json, jsonl, csv or parquet file; or a folder of such files,
            named by split (`train.txt`, `validation.txt`, ...). A line of a txt file is a text.
        config_name (`str`, *optional*): Configuration of a Hub dataset.
        split (`str`, *optional*): One split, in the syntax of `datasets`; all by default.
        revision (`str`, *optional*): Branch, tag or commit of a Hub dataset.
        streaming (`bool`): Read while training instead of downloading first.

    Returns:
        `DatasetDict`, or one `Dataset` if `split` is given; their iterable kinds if `streaming`.

    Raises:
        OSError: If it can be had neither locally nor from the network.
    """
    loader = _FILE_LOADERS.get(Path(name_or_path.split("?")[0]).suffix.lower())
    with _explained(f"the dataset `{name_or_path}`", name_or_path):
        if loader is not None:
            return load_dataset(loader, data_files=name_or_path, split=split, streaming=streaming)
        return load_dataset(name_or_path, config_name, split=split, revision=revision, streaming=streaming)
