"""The synthetic benchmark: an LSTM as the true distribution, drawn from a seed or loaded, and its texts as data."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from .completions import Completions
from .models import LSTMConfig, LSTMForCausalLM
from .states import own_randomness

_GATES = ("i", "f", "c", "og")  # the order of torch: input, forget, cell, output
ORACLE_ARRAYS = ("embedding", *(f"{kind}{gate}" for gate in _GATES for kind in ("W", "U", "b")), "Wo", "bo")


def make_oracle(seed: int, vocab_size: int = 5000, embedding_size: int = 32, hidden_size: int = 32) -> LSTMForCausalLM:
    """
    Draw an oracle: an LSTM with every parameter from N(0, 1), as in SeqGAN's synthetic experiment
    (https://huggingface.co/papers/1609.05473).

    Args:
        seed (`int`): Decides the parameters, without moving the global random state.
        vocab_size (`int`): Tokens; token 0 also starts a text.
        embedding_size (`int`): Width of the embedding.
        hidden_size (`int`): Width of the state.

    Returns:
        `LSTMForCausalLM` in eval mode, without EOS.
    """
    config = LSTMConfig(
        vocab_size=vocab_size,
        embedding_size=embedding_size,
        hidden_size=hidden_size,
        initializer_range=1.0,
        bos_token_id=0,
    )
    with own_randomness(seed, torch.device("cpu")):
        oracle = LSTMForCausalLM(config)
    # torch adds two biases to each gate; one of N(0, 1) is meant.
    torch.nn.init.zeros_(oracle.lstm.bias_hh_l0)
    return oracle.eval()


def load_oracle(path: str | Path, start_token_id: int = 0) -> LSTMForCausalLM:
    """
    Load an oracle's parameters, in the row-vector convention of the authors' code.

    Args:
        path (`str` or `Path`): An `.npz` file with arrays `embedding`, `W*`, `U*`, `b*` of the gates `i`, `f`, `og`, `c`,
            and `Wo`, `bo`; for instance `i = sigmoid(x Wi + h Ui + bi)`.
        start_token_id (`int`): Starts a text.

    Returns:
        `LSTMForCausalLM` in eval mode, without EOS.

    Raises:
        ValueError: If the file is missing or has not these arrays.
    """
    if not Path(path).is_file():
        raise ValueError(f"There is no oracle file {path}. Pass an existing .npz, or leave it out to draw an oracle.")
    with np.load(path) as arrays:
        missing = sorted(set(ORACLE_ARRAYS) - set(arrays.files))
        if missing:
            raise ValueError(f"The oracle file {path} lacks the arrays {', '.join(missing)}; it has {arrays.files}.")
        weights = {name: torch.from_numpy(arrays[name]).float() for name in ORACLE_ARRAYS}
    vocab_size, embedding_size = weights["embedding"].shape
    hidden_size = weights["Wo"].shape[0]
    config = LSTMConfig(
        vocab_size=vocab_size,
        embedding_size=embedding_size,
        hidden_size=hidden_size,
        bos_token_id=start_token_id,
    )
    oracle = LSTMForCausalLM(config)
    with torch.no_grad():
        oracle.embeddings.weight.copy_(weights["embedding"])
        oracle.lstm.weight_ih_l0.copy_(torch.cat([weights[f"W{gate}"].T for gate in _GATES]))
        oracle.lstm.weight_hh_l0.copy_(torch.cat([weights[f"U{gate}"].T for gate in _GATES]))
        oracle.lstm.bias_ih_l0.copy_(torch.cat([weights[f"b{gate}"] for gate in _GATES]))
        oracle.lstm.bias_hh_l0.zero_()
        oracle.lm_head.weight.copy_(weights["Wo"].T)
        oracle.lm_head.bias.copy_(weights["bo"])
    return oracle.eval()


def oracle_digest(oracle: PreTrainedModel) -> str:
    """
    Name an oracle by its parameters: figures of two runs compare only where this is the same.

    Args:
        oracle (`PreTrainedModel`): Any model.

    Returns:
        `str`: the first 16 hexadecimal digits of the SHA-256 of its state, tensor by tensor in the order of their names.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(oracle.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def as_dataset(texts: Completions) -> Dataset:
    """
    Return texts as rows of `input_ids`, without their start token.

    Args:
        texts (`Completions`): Unconditional texts.

    Returns:
        `Dataset` with the column `input_ids`.
    """
    rows = [ids[: int(length)].tolist() for ids, length in zip(texts.completion_ids, texts.lengths, strict=True)]
    return Dataset.from_dict({"input_ids": rows})
