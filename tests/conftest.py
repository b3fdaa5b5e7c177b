"""Tiny models, built from configs once and handed out as copies; nothing here touches a network."""

import copy
import os
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from chromium import browser  # noqa: F401 (a fixture)
from machine import start_machine
from safetensors.torch import save_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from seqgan_hf import LSTMConfig, LSTMForCausalLM, TextCNNConfig, TextCNNForSequenceClassification
from seqgan_hf.tokenization import train_tokenizer

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Threads slow tiny networks down, tenfold where several processes share the cores; here and in every process started.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

VOCAB_SIZE = 23
PAD, BOS, EOS = 0, 1, 2
SPECIAL = {"vocab_size": VOCAB_SIZE, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
_ATTENTION = {
    **SPECIAL, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 64, "initializer_range": 0.5,
}  # fmt: skip
_ENCODER = {
    "vocab_size": VOCAB_SIZE, "pad_token_id": PAD, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip

# A wide initialisation makes the next-token distributions far from uniform, so that a wrong position or mask shows.
GENERATORS: dict[str, Callable[[], PreTrainedModel]] = {
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(**SPECIAL, n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.5)
    ),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_ATTENTION)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_ATTENTION, head_dim=8)),
    "mistral_sliding": lambda: MistralForCausalLM(MistralConfig(**_ATTENTION, sliding_window=4)),
    "mamba": lambda: MambaForCausalLM(
        MambaConfig(**SPECIAL, hidden_size=16, state_size=4, num_hidden_layers=2, initializer_range=0.5)
    ),
    "lstm": lambda: LSTMForCausalLM(LSTMConfig(**SPECIAL, num_hidden_layers=2, initializer_range=0.7)),
}
DISCRIMINATORS: dict[str, Callable[[], PreTrainedModel]] = {
    "bert": lambda: BertForSequenceClassification(BertConfig(**_ENCODER)),
    "distilbert": lambda: DistilBertForSequenceClassification(
        DistilBertConfig(
            vocab_size=VOCAB_SIZE, pad_token_id=PAD, dim=16, hidden_dim=32, n_layers=1, n_heads=2,
            max_position_embeddings=64,
        )
    ),
    "roberta": lambda: RobertaForSequenceClassification(RobertaConfig(**{**_ENCODER, "pad_token_id": PAD})),
    "gpt2_classifier": lambda: GPT2ForSequenceClassification(
        GPT2Config(vocab_size=VOCAB_SIZE, n_embd=16, n_layer=1, n_head=2, n_positions=64, pad_token_id=None)
    ),
    "cnn": lambda: TextCNNForSequenceClassification(
        TextCNNConfig(vocab_size=VOCAB_SIZE, pad_token_id=PAD, filter_sizes=(1, 2, 3), num_filters=(8, 8, 8))
    ),
}  # fmt: skip


@pytest.fixture(scope="session")
def _models() -> dict[str, PreTrainedModel]:
    models = {}
    for name, build in {**GENERATORS, **DISCRIMINATORS}.items():
        torch.manual_seed(0)
        models[name] = build().eval()
    return models


@pytest.fixture
def tiny_model(_models: dict[str, PreTrainedModel]) -> Callable[[str], PreTrainedModel]:
    """Return a function from a name in GENERATORS or DISCRIMINATORS to a fresh copy of that model."""
    return lambda name: copy.deepcopy(_models[name])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def nan_where_nothing_is_drawn():
    """Fill new memory with NaN, so that a weight that nobody draws shows each time and not by chance."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def run_out_of_memory() -> None:
    """Raise what torch raises where memory runs out on a CPU."""
    torch.empty(2**60)


def short_of_memory(model: PreTrainedModel, most: int) -> None:
    """Let a model run out of memory where it reads more than `most` rows at once."""
    forward = model.forward

    def read(*args, **kwargs):
        rows = len(next(value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)))
        if rows > most:
            run_out_of_memory()
        return forward(*args, **kwargs)

    model.forward = read


def write_checkpoint(folder: Path) -> None:
    """Write what a checkpoint that can be resumed consists of, all of it small."""
    (folder / "discriminator").mkdir(parents=True)
    for weights in (folder / "model.safetensors", folder / "discriminator" / "model.safetensors"):
        save_file({"weight": torch.zeros(4)}, weights)
    torch.save({"sets_played": 1}, folder / "seqgan_state.pt")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({}, folder / name)
    (folder / "trainer_state.json").write_text("{}", encoding="utf-8")


SENTENCES = [
    "we work for the town", "the town works for us", "a bridge is a promise", "the school is open",
    "we open the school", "the nurse works at night", "a promise is work", "the bridge is open at night",
    "us and the town",
    "we promise a school",
]  # fmt: skip


@pytest.fixture(scope="session")
def _tokenizer():
    return train_tokenizer(SENTENCES, vocab_size=280)


@pytest.fixture
def tokenizer(_tokenizer):
    """Return a byte-level BPE tokenizer of 280 tokens with BOS, EOS and padding."""
    return copy.deepcopy(_tokenizer)


@pytest.fixture(scope="session")
def machine(tmp_path_factory):
    """Start the machine of the users of the test Hub: each program there is a fork, and need not import what they use."""
    with start_machine(tmp_path_factory.mktemp("machine")) as machine:
        yield machine


@pytest.fixture
def run_elsewhere(machine, tmp_path):
    """Return a function that runs Python source in a process that cannot import this package, and gives its output."""

    def run(source: str, *arguments: str) -> str:
        script = tmp_path / "elsewhere.py"
        blocked = "import sys; sys.modules['seqgan_hf'] = None  # importing it is an error from here on\n"
        script.write_text(blocked + textwrap.dedent(source), encoding="utf-8")
        result = machine.run(["python", str(script), *map(str, arguments)], tmp_path)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


@pytest.fixture
def unreachable_hub(monkeypatch, tmp_path):
    """Point the Hub clients at a closed port of this machine, as if there were no network."""
    import datasets.config
    import huggingface_hub.constants

    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    # The clients try five times, and wait in between.
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
