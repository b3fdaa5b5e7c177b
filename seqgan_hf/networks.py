"""The two players of a recipe on real text: loaded by name, or made from scratch."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import is_bitsandbytes_available, is_peft_available

from .adapters import base_folders, require_bases_elsewhere
from .arguments import TextRecipeArguments
from .checkpoints import folders_of_pair
from .config import SeqGANConfig
from .corpora import all_strings
from .loading import find_tokenizer, hub_arguments, load_discriminator, load_generator, load_tokenizer
from .models import LSTMConfig, LSTMForCausalLM
from .processes import from_first
from .tokenization import train_tokenizer


@dataclass
class Networks:
    """
    The two players of a recipe and their tokenizers.

    Args:
        generator (`PreTrainedModel`): A causal language model.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        discriminator (`PreTrainedModel`, *optional*): A sequence classifier with two labels. `None`: one is made from
            scratch, after the generator's first stage.
        discriminator_tokenizer (`PreTrainedTokenizerBase`, *optional*): `None`: it reads the generator's ids.
        loading (`dict`): Arguments with which the generator is loaded again.
    """

    generator: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    discriminator: PreTrainedModel | None
    discriminator_tokenizer: PreTrainedTokenizerBase | None
    loading: dict[str, Any] = field(default_factory=dict)


def load_networks(
    args: TextRecipeArguments, config: SeqGANConfig, texts: Dataset, alphabet: Sequence[str] = ()
) -> Networks:
    """
    Load both networks by name, or make the paper's generator from scratch with a tokenizer trained on the texts.

    Args:
        args (`TextRecipeArguments`): Names, or sizes.
        config (`SeqGANConfig`): Arguments of loading.
        texts (`Dataset`): The training texts.
        alphabet (`Sequence[str]`): What a tokenizer from scratch must know beside these.

    Returns:
        `Networks`

    Raises:
        OSError: If a model can be had neither locally nor from the Hub, or the generator has no tokenizer.
        ValueError: If `output_dir` holds the model that an adapter belongs to.
    """
    if not args.from_scratch:
        name, other_name = args.model_name_or_path, args.discriminator_name_or_path
        loading, other_loading = config.init_kwargs("model"), config.init_kwargs("discriminator")
        if args.load_in_4bit:
            loading["quantization_config"] = quantization(config)
        networks = Networks(
            load_generator(name, adapter(args, "CAUSAL_LM"), **loading),
            load_tokenizer(name, **hub_arguments(loading)),
            load_discriminator(other_name, adapter(args, "SEQ_CLS"), **other_loading),
            find_tokenizer(other_name, **hub_arguments(other_loading)),
            loading,
        )
        bases = base_folders(networks.generator, networks.discriminator)
        require_bases_elsewhere(bases, *folders_of_pair(config.output_dir))  # before hours of training, not after
        return networks
    known = itertools.chain(alphabet, all_strings(texts))
    tokenizer = from_first(lambda: train_tokenizer(known, args.vocab_size, args.tokenizer, ends=not args.fixed_length))
    shape = LSTMConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        embedding_size=args.embedding_size,
        hidden_size=args.hidden_size,
        dropout=args.generator_dropout,
    )
    return Networks(LSTMForCausalLM(shape), tokenizer, None, None)


def adapter(args: TextRecipeArguments, task_type: str) -> Any | None:
    """
    Return the adapter that a recipe trains, if it was asked for.

    Args:
        args (`TextRecipeArguments`): Its sizes.
        task_type (`str`): `CAUSAL_LM`, the generator's, or `SEQ_CLS`, the discriminator's.

    Returns:
        `peft.LoraConfig`, or `None`

    Raises:
        ImportError: If it was asked for and peft is not installed.
    """
    of_generator = task_type == "CAUSAL_LM"
    if not (args.use_peft if of_generator else args.discriminator_use_peft):
        return None
    if not is_peft_available():
        raise ImportError("`use_peft` needs the package peft: pip install 'seqgan_hf[peft]'.")
    from peft import LoraConfig

    targets = args.lora_target_modules if of_generator else None
    return LoraConfig(
        task_type=task_type, r=args.lora_r, lora_alpha=args.lora_alpha, target_modules=targets or "all-linear"
    )


def quantization(config: SeqGANConfig) -> BitsAndBytesConfig:
    """
    Describe how the generator is loaded in 4 bits: NF4, computing in the precision of the run (QLoRA,
    https://huggingface.co/papers/2305.14314).

    Args:
        config (`SeqGANConfig`): Says the precision.

    Returns:
        `BitsAndBytesConfig`

    Raises:
        ImportError: If bitsandbytes is not installed.
    """
    if not is_bitsandbytes_available():
        raise ImportError("`load_in_4bit` needs the package bitsandbytes: pip install bitsandbytes.")
    dtype = torch.bfloat16 if config.bf16 else torch.float32
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
