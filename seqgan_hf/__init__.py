"""Adversarial fine-tuning of causal language models: SeqGAN for the Hugging Face stack."""

from .checkpoints import CheckpointError
from .config import SeqGANConfig
from .flags import parse_config
from .hub import PushError
from .interruption import Interrupted
from .loading import merge_adapter
from .models import (
    LikelihoodRatioConfig,
    LikelihoodRatioForSequenceClassification,
    LSTMConfig,
    LSTMForCausalLM,
    TextCNNConfig,
    TextCNNForSequenceClassification,
)
from .pretraining import pretrain_generator
from .trainer import SeqGANTrainer

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "Interrupted",
    "LSTMConfig",
    "LSTMForCausalLM",
    "LikelihoodRatioConfig",
    "LikelihoodRatioForSequenceClassification",
    "PushError",
    "SeqGANConfig",
    "SeqGANTrainer",
    "TextCNNConfig",
    "TextCNNForSequenceClassification",
    "merge_adapter",
    "parse_config",
    "pretrain_generator",
]
