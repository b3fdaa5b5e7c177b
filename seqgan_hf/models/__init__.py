"""The two models of the SeqGAN paper, known to the Auto classes of transformers as soon as this is imported."""

from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from .cnn import TextCNNConfig, TextCNNForSequenceClassification
from .lstm import LSTMConfig, LSTMForCausalLM
from .ratio import LikelihoodRatioConfig, LikelihoodRatioForSequenceClassification

AutoConfig.register(LSTMConfig.model_type, LSTMConfig, exist_ok=True)
AutoConfig.register(TextCNNConfig.model_type, TextCNNConfig, exist_ok=True)
AutoConfig.register(LikelihoodRatioConfig.model_type, LikelihoodRatioConfig, exist_ok=True)
AutoModelForCausalLM.register(LSTMConfig, LSTMForCausalLM, exist_ok=True)
AutoModelForSequenceClassification.register(TextCNNConfig, TextCNNForSequenceClassification, exist_ok=True)
AutoModelForSequenceClassification.register(
    LikelihoodRatioConfig, LikelihoodRatioForSequenceClassification, exist_ok=True
)

# save_pretrained then writes lstm.py or cnn.py beside the weights: the model loads where this package is missing.
LSTMConfig.register_for_auto_class()
TextCNNConfig.register_for_auto_class()
LSTMForCausalLM.register_for_auto_class("AutoModelForCausalLM")
TextCNNForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
LikelihoodRatioConfig.register_for_auto_class()
LikelihoodRatioForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")

__all__ = [
    "LSTMConfig",
    "LSTMForCausalLM",
    "LikelihoodRatioConfig",
    "LikelihoodRatioForSequenceClassification",
    "TextCNNConfig",
    "TextCNNForSequenceClassification",
]
