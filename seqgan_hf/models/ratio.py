"""
A discriminator that reads a text through language models and through the generator's own eyes.

This file travels with every saved model (`trust_remote_code=True`), so it imports torch, transformers and its neighbour.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

from .lstm import LSTMConfig, LSTMForCausalLM, PortableLSTM

_LOGITS_AT_ONCE = 4_000_000


class LikelihoodRatioConfig(PreTrainedConfig):
    """
    Shape of a [`LikelihoodRatioForSequenceClassification`].

    Args:
        language_models (`list[dict]`):
            Configurations of the causal language models of real texts that it reads with; at least one.
        start_token_id (`int`, *optional*, defaults to 0):
            Set before each text for them.
        hidden_size (`int`, *optional*, defaults to 0):
            Width of an LSTM of its own, which judges what they leave; 0: none.
        embedding_size (`int`, *optional*, defaults to 32):
            Width of that LSTM's token embeddings.
        generator_hidden_size (`int`, *optional*, defaults to 0):
            Width of the generator's hidden states, which that LSTM reads, too; 0: it does not.
        dropout (`float`, *optional*, defaults to 0.0):
            Of that LSTM's inputs and outputs, in [0, 1).
        pad_token_id (`int`, *optional*):
            Stands behind texts; a missing attention mask is derived from it.
        num_labels (`int`, *optional*, defaults to 2):
            generated (0) and real (1).

    Raises:
        ValueError: If a number is outside its range.
    """

    model_type = "seqgan_likelihood_ratio"

    language_models: list[dict[str, Any]] | None = None
    start_token_id: int = 0
    hidden_size: int = 0
    embedding_size: int = 32
    generator_hidden_size: int = 0
    dropout: float = 0.0
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.language_models = list(self.language_models or [])
        for name, least in (("hidden_size", 0), ("embedding_size", 1), ("generator_hidden_size", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, got {getattr(self, name)}.")
        if self.generator_hidden_size and not self.hidden_size:
            raise ValueError(
                "`generator_hidden_size` is read by the LSTM of `hidden_size`, which is 0, so there is none: set both or "
                "neither."
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` must lie in [0, 1), got {self.dropout}.")
        if self.id2label is None and kwargs.get("num_labels") in (None, 2):
            self.id2label = {0: "generated", 1: "real"}
            self.label2id = {"generated": 0, "real": 1}
        super().__post_init__(**kwargs)

    @property
    def reads_generator(self) -> tuple[str, ...]:
        """What it reads of the generator beside the text: arguments of the model's `forward`."""
        return ("generator_logps", "generator_states") if self.generator_hidden_size else ("generator_logps",)


@dataclass
class PrefixClassifierOutput(SequenceClassifierOutput):
    """
    What a classifier says that judges unfinished texts, too.

    Args:
        prefix_logits (`torch.Tensor` of shape `(batch_size, sequence_length + 1)`):
            Log-odds of real against generated of the first 0, 1, 2, ... tokens of each text.
    """

    prefix_logits: torch.Tensor | None = None


class LikelihoodRatioForSequenceClassification(PreTrainedModel):
    """
    The log-odds that a text is real: its log-likelihood under language models of real texts, less that under the
    generator, with learned weights, and what an LSTM adds.

    The best discriminator's log-odds are log p_real(x) - log p_generator(x) (Goodfellow et al. 2014, Eq. 2,
    https://huggingface.co/papers/1406.2661). The second term is known: the generator says it. The first is estimated by
    the mean likelihood of language models that were trained on real texts and stay as they are. It begins with weights 1
    and -1; learning corrects them, and weight decay pulls back to them. The sum over tokens gives every prefix its
    log-odds, so no rollout is needed to judge it.

    Train the language models and the generator on other real texts than it learns from (`discriminator_data:
    held_out`): what they have memorised would otherwise pass for a property of real texts.

    Args:
        config ([`LikelihoodRatioConfig`]):
            Shape of the model.
    """

    config: LikelihoodRatioConfig
    config_class = LikelihoodRatioConfig

    def __init__(self, config: LikelihoodRatioConfig) -> None:
        super().__init__(config)
        if not config.language_models:
            raise ValueError("`language_models` must hold at least one configuration; see `from_language_models`.")
        self.language_models = nn.ModuleList(_language_model(values) for values in config.language_models)
        self.language_models.requires_grad_(False)
        self.correction = nn.Parameter(torch.zeros(2))  # of the weights 1 and -1
        self.bias = nn.Parameter(torch.zeros(()))
        if config.hidden_size:
            width = config.embedding_size + config.generator_hidden_size
            self.embeddings = nn.Embedding(self._vocab_size, config.embedding_size)
            self.lstm = PortableLSTM(width, config.hidden_size, batch_first=True)
            self.dropout = nn.Dropout(config.dropout)
            self.head = nn.Linear(config.hidden_size, 1)
        self.post_init()
        for index, model in enumerate(self.language_models):
            assert isinstance(model, PreTrainedModel)
            tied, place = model.all_tied_weights_keys, f"language_models.{index}."
            self.all_tied_weights_keys |= {place + name: place + source for name, source in tied.items()}

    @classmethod
    def from_language_models(
        cls, models: list[PreTrainedModel], **settings: Any
    ) -> "LikelihoodRatioForSequenceClassification":
        """
        Make a discriminator that reads with copies of language models.

        Args:
            models (`list[PreTrainedModel]`): Causal language models with the generator's vocabulary.
            settings: More of [`LikelihoodRatioConfig`].
        """
        configs = [model.config.to_dict() for model in models]
        for values in configs:
            values.pop("_name_or_path", None)  # where it lay is nobody's business
        # Padding is masked out, so any token may stand there.
        config = LikelihoodRatioConfig(language_models=configs, **({"pad_token_id": 0} | settings))
        classifier = cls(config)
        for own, model in zip(classifier.language_models, models, strict=True):
            own.load_state_dict(model.state_dict())
        nn.Module.to(classifier, models[0].device)
        return classifier

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if module is self:
            init.zeros_(self.correction)
            init.zeros_(self.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=0.1)
        elif isinstance(module, nn.LSTM):
            bound = module.hidden_size**-0.5
            for parameter in module.parameters():
                init.uniform_(parameter, -bound, bound)
        elif module is getattr(self, "head", None):
            init.zeros_(module.weight)  # it begins as the likelihood ratio alone
            init.zeros_(module.bias)

    def train(self, mode: bool = True) -> "LikelihoodRatioForSequenceClassification":
        """Switch dropout on or off; the language models' stays off, and they learn nothing."""
        super().train(mode)
        self.language_models.eval().requires_grad_(False)
        return self

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding of the first language model."""
        first = self.language_models[0]
        assert isinstance(first, PreTrainedModel)
        return first.get_input_embeddings()

    @property
    def _vocab_size(self) -> int:
        embeddings = self.get_input_embeddings()
        assert isinstance(embeddings, nn.Embedding)
        return embeddings.num_embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        generator_logps: torch.Tensor | None = None,
        generator_states: torch.Tensor | None = None,
        generator_mask: torch.Tensor | None = None,
        language_logps: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> PrefixClassifierOutput:
        """
        Judge texts, and all their prefixes.

        Args:
            input_ids (`torch.Tensor` of shape `(batch_size, sequence_length)`):
                Token ids without start token, right-padded.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
                1 where a token counts.
            generator_logps (`torch.Tensor` of shape `(batch_size, sequence_length)`):
                Log-probability of each token under the generator.
            generator_states (`torch.Tensor` of shape `(batch_size, sequence_length, generator_hidden_size)`, *optional*):
                The generator's hidden state that predicts each token.
            generator_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
                1 where the generator wrote, or could have written, the token; 0 at prompts. All by default.
            language_logps (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
                Log of the mean probability of each token under the language models. Computed here if omitted, with the
                start token before each text.
            labels (`torch.Tensor` of shape `(batch_size,)`, *optional*):
                0 generated, 1 real.
            kwargs: Ignored.

        Returns:
            [`PrefixClassifierOutput`]: `logits` of shape `(batch_size, 2)`, `prefix_logits`, and `loss` if `labels` are
            given.

        Raises:
            ValueError: If what it reads of the generator is missing.
        """
        for name in self.config.reads_generator:
            if locals()[name] is None:
                raise ValueError(
                    f"This discriminator reads the generator beside the text: `{name}` is missing. "
                    "`seqgan_hf.discriminator.Discriminator` passes it."
                )
        if generator_states is not None and generator_states.shape[-1] != self.config.generator_hidden_size:
            raise ValueError(
                f"`generator_states` must have width `generator_hidden_size`, {self.config.generator_hidden_size}; this "
                f"generator's are {generator_states.shape[-1]} wide. Set it to that."
            )
        if attention_mask is None:
            padding = self.config.pad_token_id
            attention_mask = torch.ones_like(input_ids) if padding is None else (input_ids != padding).long()
        counts = attention_mask if generator_mask is None else attention_mask * generator_mask
        assert generator_logps is not None
        if language_logps is None:
            language_logps = self._likelihood(input_ids, attention_mask)
        steps = (1 + self.correction[0]) * language_logps
        steps = steps - (1 + self.correction[1]) * generator_logps
        if self.config.hidden_size:
            steps = steps + self._what_is_left(input_ids, generator_states)
        prefix_logits = self.bias + F.pad((steps * counts).cumsum(dim=1), (1, 0))
        logit = prefix_logits[:, -1]  # tokens that do not count add nothing
        logits = torch.stack([-logit / 2, logit / 2], dim=1)
        loss = None if labels is None else F.cross_entropy(logits, labels.to(logits.device))
        return PrefixClassifierOutput(loss=loss, logits=logits, prefix_logits=prefix_logits)

    @torch.no_grad()
    def _likelihood(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Log of the mean probability of each token over the language models: `(batch_size, sequence_length)`."""
        start = torch.full_like(input_ids[:, :1], self.config.start_token_id)
        read = torch.cat([start, input_ids[:, :-1]], dim=1)
        mask = torch.cat([torch.ones_like(start), attention_mask[:, :-1]], dim=1)
        at_once = max(_LOGITS_AT_ONCE // (input_ids.shape[1] * self._vocab_size), 1)
        blocks = zip(read.split(at_once), mask.split(at_once), input_ids.split(at_once), strict=True)
        found = []
        for ids, kept, targets in blocks:
            logps = []
            for model in self.language_models:
                logits = model(input_ids=ids, attention_mask=kept, use_cache=False).logits.float()
                chosen = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
                logps.append(chosen - logits.logsumexp(dim=-1))
            found.append(torch.stack(logps).logsumexp(dim=0))
        return torch.cat(found) - torch.tensor(float(len(self.language_models))).log()

    def _what_is_left(self, input_ids: torch.Tensor, generator_states: torch.Tensor | None) -> torch.Tensor:
        read = self.dropout(self.embeddings(input_ids))
        if generator_states is not None and self.config.generator_hidden_size:
            read = torch.cat([read, generator_states], dim=-1)
        return self.head(self.dropout(self.lstm(read)[0])).squeeze(-1)


def _language_model(values: dict[str, Any]) -> PreTrainedModel:
    if values["model_type"] == LSTMConfig.model_type:
        return LSTMForCausalLM(LSTMConfig.from_dict(values))
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**values))


__all__ = ["LikelihoodRatioConfig", "LikelihoodRatioForSequenceClassification"]
