"""
The discriminator of SeqGAN, a convolutional text classifier, as a Hugging Face sequence classifier.

This file travels with every saved model (`trust_remote_code=True`), so it imports torch and transformers only.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple

# The authors' code draws convolutions and output layer from a normal distribution of this width, cut at two
# standard deviations, and sets their biases to the same value.
_INITIAL_STD = 0.1
_INITIAL_BIAS = 0.1
_INITIAL_GATE_BIAS = -2.0  # the highway layer starts by passing its input through
_MOST_SHARES = 2**26  # that are kept: 256 MiB
_FEWEST_PRODUCTS = 10_000  # of all filters with one token: smaller convolutions take no longer
# Shares are computed where a call has a quarter as many tokens as the vocabulary. That takes as long as some ten such
# calls save; an update of the generator makes more.
_VOCABULARY_OF_A_CALL = 4


class TextCNNConfig(PreTrainedConfig):
    """
    Shape of a [`TextCNNForSequenceClassification`].

    The defaults are SeqGAN's discriminator for texts of 20 tokens (https://huggingface.co/papers/1609.05473).

    Args:
        vocab_size (`int`, *optional*, defaults to 5000):
            Number of tokens; at least 1.
        embedding_size (`int`, *optional*, defaults to 64):
            Width of the token embeddings; at least 1.
        filter_sizes (`tuple[int, ...]`, *optional*, defaults to 1 to 10, 15 and 20):
            Widths of the convolutions, in tokens; each at least 1.
        num_filters (`tuple[int, ...]`, *optional*, defaults to 1,720 filters in all):
            Number of filters of each width; as many numbers as `filter_sizes`, each at least 1.
        num_highway_layers (`int`, *optional*, defaults to 1):
            Highway layers after pooling; at least 0.
        dropout (`float`, *optional*, defaults to 0.25):
            Dropout before the output layer, in [0, 1).
        embedding_dropout (`float`, *optional*, defaults to 0.0):
            Dropout of the embeddings, in [0, 1).
        normalization (`str`, *optional*, defaults to `"none"`):
            `"layer"` normalises the pooled features of each text (https://huggingface.co/papers/1607.06450);
            `"spectral"` divides the weight of each layer behind the embedding by its largest
            singular value (https://huggingface.co/papers/1802.05957), so that a logit can only change so fast.
        pad_token_id (`int`, *optional*):
            Tokens that a missing attention mask is derived from. `None`: without a mask, every token counts.
        num_labels (`int`, *optional*, defaults to 2):
            Number of classes. Two are named generated (0) and real (1) unless `id2label` says otherwise.

    Raises:
        ValueError: If a number is outside its range, or `filter_sizes` and `num_filters` differ in length.
    """

    model_type = "seqgan_textcnn"

    vocab_size: int = 5000
    embedding_size: int = 64
    filter_sizes: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20)
    num_filters: tuple[int, ...] = (100, 200, 200, 200, 200, 100, 100, 100, 100, 100, 160, 160)
    num_highway_layers: int = 1
    dropout: float = 0.25
    embedding_dropout: float = 0.0
    normalization: str = "none"
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.filter_sizes = tuple(self.filter_sizes)  # JSON gives lists
        self.num_filters = tuple(self.num_filters)
        for name in ("vocab_size", "embedding_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if len(self.filter_sizes) != len(self.num_filters) or not self.filter_sizes:
            raise ValueError(
                "`filter_sizes` and `num_filters` must have the same length, at least 1: one number of filters per "
                f"width. Got {len(self.filter_sizes)} and {len(self.num_filters)}."
            )
        for name in ("filter_sizes", "num_filters"):
            if min(getattr(self, name)) < 1:
                raise ValueError(f"Every value of `{name}` must be at least 1, got {getattr(self, name)}.")
        if self.num_highway_layers < 0:
            raise ValueError(f"`num_highway_layers` must be at least 0, got {self.num_highway_layers}.")
        for name in ("dropout", "embedding_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` must lie in [0, 1), got {getattr(self, name)}.")
        if self.normalization not in ("none", "layer", "spectral"):
            raise ValueError(f"`normalization` must be none, layer or spectral, got {self.normalization!r}.")
        if self.id2label is None and kwargs.get("num_labels") in (None, 2):
            self.id2label = {0: "generated", 1: "real"}
            self.label2id = {"generated": 0, "real": 1}
        super().__post_init__(**kwargs)


class TextCNNHighway(nn.Module):
    """
    One highway layer: a gate blends its input with a ReLU transform of it (https://huggingface.co/papers/1505.00387).

    Args:
        size (`int`):
            Width of input and output.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.transform = nn.Linear(size, size)
        self.gate = nn.Linear(size, size)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map `(batch_size, size)` to `(batch_size, size)`."""
        gate = self.gate(features).sigmoid()
        return gate * self.transform(features).relu() + (1 - gate) * features


class _Shares:
    """
    What each token gives to each filter at each place of a window.

    Args:
        weights (`list[torch.Tensor]`): Of the embedding, then weight and bias of each convolution.
    """

    @torch.no_grad()
    def __init__(self, weights: list[torch.Tensor]) -> None:
        self._weights = [weight.clone() for weight in weights]
        embeddings, *rest = weights
        self.padding = len(embeddings)  # the row of a token that gives nothing
        with_padding = F.pad(embeddings, (0, 0, 0, 1))
        self.rows = []  # for each width: (filter_size * (vocab_size + 1), num_filters), a block for each place
        for weight, bias in zip(rest[::2], rest[1::2], strict=True):
            shares = with_padding @ weight.permute(2, 1, 0)
            shares[0] += bias  # every window has one first token
            self.rows.append(shares.flatten(0, 1))

    def are_of(self, weights: list[torch.Tensor]) -> bool:
        """Whether these are the weights that they were made of; it takes a twentieth of the time of a batch."""
        return all(torch.equal(old, new) for old, new in zip(self._weights, weights, strict=True))


class TextCNNForSequenceClassification(PreTrainedModel):
    """
    Convolutions of several widths, maximum over time, highway and a linear head: the discriminator of SeqGAN
    (https://huggingface.co/papers/1609.05473, Eq. 11 and 12).

    A window of width w that starts at token i counts if i + w <= max(length, w), length being the number of real
    tokens of its row; embeddings of padding are zero. So more padding changes nothing, on either side, texts shorter
    than the widest filter work, and a batch without padding gets the convolution of the paper.

    A filter adds up what the tokens of a window give to it, and a vocabulary has few tokens. So, in eval mode, without
    gradients, on a CPU and in float32, each token's share in each filter is computed once and looked up: the same but
    for rounding. There are `vocab_size * sum(filter_size * num_filters)` shares, kept until the weights change. The
    convolutions run where shares would take more than 256 MiB, where they are too small or the texts of a call too few to
    gain by it, and where layers have been replaced or hooked.

    Args:
        config ([`TextCNNConfig`]):
            Shape of the model.
    """

    config: TextCNNConfig
    config_class = TextCNNConfig
    _shares: _Shares | None = None

    def __init__(self, config: TextCNNConfig) -> None:
        super().__init__(config)
        self.embeddings: nn.Module = nn.Embedding(config.vocab_size, config.embedding_size)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(config.embedding_size, num_filters, filter_size)
            for filter_size, num_filters in zip(config.filter_sizes, config.num_filters, strict=True)
        )
        num_features = sum(config.num_filters)
        self.highway = nn.Sequential(*(TextCNNHighway(num_features) for _ in range(config.num_highway_layers)))
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(num_features, config.num_labels or 2)
        self.embedding_dropout = nn.Dropout(config.embedding_dropout)
        self.norm = nn.LayerNorm(num_features) if config.normalization == "layer" else nn.Identity()
        self.post_init()
        if config.normalization == "spectral":
            for layer in [*self.convolutions, *self.highway.modules(), self.classifier]:
                if isinstance(layer, (nn.Conv1d, nn.Linear)):
                    nn.utils.parametrizations.spectral_norm(layer)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            init.uniform_(module.weight, -1.0, 1.0)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, (nn.Conv1d, nn.Linear)) and module.bias is not None:
            if isinstance(module, nn.Conv1d) or module is self.classifier:
                init.trunc_normal_(module.weight, std=_INITIAL_STD, a=-2 * _INITIAL_STD, b=2 * _INITIAL_STD)
                init.constant_(module.bias, _INITIAL_BIAS)
            else:
                # Told apart here: a parameter is drawn once, so the TextCNNHighway visited later cannot redraw it.
                is_gate = any(module is layer.gate for layer in self.highway)
                init.xavier_uniform_(module.weight)
                init.constant_(module.bias, _INITIAL_GATE_BIAS if is_gate else 0.0)

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        return self.embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding."""
        self.embeddings = value

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """
        One logit per label, and the cross-entropy if `labels` are given.

        Args:
            input_ids (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
                Token ids, in [0, vocab_size). Either these or `inputs_embeds`.
            attention_mask (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
                1 where a token counts, in any pattern. If omitted, 0 at `config.pad_token_id`, if that is set.
            inputs_embeds (`torch.Tensor` of shape `(batch_size, sequence_length, embedding_size)`, *optional*):
                Embeddings to read instead of `input_ids`; without a mask, all of them count.
            labels (`torch.Tensor` of shape `(batch_size,)`, *optional*):
                Class indices, 0 generated and 1 real by default; -100 is ignored.
            kwargs:
                `num_items_in_batch` divides the summed loss, for gradient accumulation; the rest is ignored.

        Returns:
            [`~transformers.modeling_outputs.SequenceClassifierOutput`]: `logits` of shape `(batch_size, num_labels)`,
            and `loss` if `labels` are given.

        Raises:
            ValueError: If not exactly one of `input_ids` and `inputs_embeds` is given, if the mask does not fit, or
                if `labels` are given to a model with one label.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass exactly one of `input_ids` and `inputs_embeds`.")
        if attention_mask is None and input_ids is not None and self.config.pad_token_id is not None:
            attention_mask = input_ids != self.config.pad_token_id

        is_real = None
        if attention_mask is not None:
            given = input_ids if inputs_embeds is None else inputs_embeds
            assert given is not None
            shape = given.shape[:2]
            if attention_mask.shape != shape:
                raise ValueError(
                    f"`attention_mask` must have shape {tuple(shape)} to match the input, got "
                    f"{tuple(attention_mask.shape)}."
                )
            is_real = attention_mask != 0
            is_real = None if bool(is_real.all()) else is_real

        if input_ids is not None and (shares := self._shares_for(input_ids)):
            activations = self._add_up(input_ids, is_real, shares)
        else:
            activations = self._convolve(
                self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds, is_real
            )
        features = self.norm(self._pool_windows(activations, None if is_real is None else is_real.sum(dim=1)))
        logits = self.classifier(self.dropout(self.highway(features)))
        loss = None if labels is None else self._cross_entropy(logits, labels, kwargs.get("num_items_in_batch"))
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _convolve(self, embeddings: torch.Tensor, is_real: torch.Tensor | None) -> Iterator[torch.Tensor]:
        """
        Run the convolutions.

        Args:
            embeddings (`torch.Tensor` of shape `(batch_size, sequence_length, embedding_size)`):
                Of the tokens.
            is_real (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
                Which of them count. `None`: all.

        Yields:
            `torch.Tensor` of shape `(batch_size, num_filters, num_windows)`, for each width.
        """
        if is_real is not None:
            embeddings = _left_align(embeddings, is_real, 0.0)
        sequence_length = embeddings.shape[1]
        channels_first = self.embedding_dropout(embeddings).transpose(1, 2)
        for width, convolution in zip(self.config.filter_sizes, self.convolutions, strict=True):
            assert isinstance(convolution, nn.Conv1d)
            if width == sequence_length:
                # One window: a matrix product, which takes a third of the time of the convolution.
                whole = F.linear(channels_first.flatten(1), convolution.weight.flatten(1), convolution.bias)
                yield whole.unsqueeze(-1)
            else:
                yield convolution(F.pad(channels_first, (0, max(width - sequence_length, 0))))

    def _shares_for(self, input_ids: torch.Tensor) -> _Shares | None:
        """The shares of tokens in filters, if they may and should stand for the convolutions; otherwise nothing."""
        layers = [self.embeddings, *self.convolutions]
        if self.training or not all(map(_is_plain, layers)):
            self._shares = None
            return None
        if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
            return None
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return None
        weights = [weight for layer in layers for weight in layer.parameters()]
        num_rows = len(weights[0]) + 1
        shares_of_token = sum(weight[:, 0].numel() for weight in weights[1::2])
        if shares_of_token * weights[0].shape[1] < _FEWEST_PRODUCTS or shares_of_token * num_rows > _MOST_SHARES:
            return None
        if input_ids.numel() * _VOCABULARY_OF_A_CALL < num_rows:
            return None
        if (
            input_ids.dtype not in (torch.int32, torch.int64)
            or not ((input_ids >= 0) & (input_ids < num_rows - 1)).all()
        ):
            return None  # the embedding says what is wrong
        shares = self._shares
        if shares is None or not shares.are_of(weights):
            shares = self._shares = _Shares(weights)
        return shares

    def _add_up(
        self, input_ids: torch.Tensor, is_real: torch.Tensor | None, shares: _Shares
    ) -> Iterator[torch.Tensor]:
        """Give what [`_convolve`] gives of the embeddings of these tokens, by sums of their shares."""
        if is_real is not None:
            input_ids = _left_align(input_ids, is_real, shares.padding)
        for width, rows in zip(self.config.filter_sizes, shares.rows, strict=True):
            padded = F.pad(input_ids, (0, max(width - input_ids.shape[1], 0)), value=shares.padding)
            first_rows = torch.arange(width, device=input_ids.device) * (shares.padding + 1)
            windows = padded.unfold(1, width, 1) + first_rows
            sums = F.embedding_bag(windows.flatten(0, 1), rows, mode="sum")
            yield sums.unflatten(0, windows.shape[:2]).transpose(1, 2)

    def _pool_windows(self, activations: Iterable[torch.Tensor], lengths: torch.Tensor | None) -> torch.Tensor:
        """
        The highest activation of each filter in each row.

        Args:
            activations (`Iterable[torch.Tensor]`):
                Of shape `(batch_size, num_filters, num_windows)`, for each width.
            lengths (`torch.Tensor` of shape `(batch_size,)`, *optional*):
                Number of real tokens of each row, at least 0. `None`: all of them.

        Returns:
            `torch.Tensor` of shape `(batch_size, sum(num_filters))`, at least 0.
        """
        pooled = []
        for width, values in zip(self.config.filter_sizes, activations, strict=True):
            if lengths is not None:
                starts = torch.arange(values.shape[-1], device=values.device)
                # Start 0 always counts, so that no row is without a window.
                last_start = (lengths - width).clamp(min=0).to(values.device)
                missing = (starts > last_start.unsqueeze(1)).unsqueeze(1)
                # In place it is faster, but with gradients others may hold what is filled.
                fill = values.masked_fill if torch.is_grad_enabled() else values.masked_fill_
                values = fill(missing, -torch.inf)
            # The same numbers; `amax` is faster forwards, `max` backwards.
            pooled.append(values.max(dim=-1).values if torch.is_grad_enabled() else values.amax(dim=-1))
        return torch.cat(pooled, dim=1).relu()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_shares": None}

    def _cross_entropy(
        self, logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None
    ) -> torch.Tensor:
        # The loss of transformers would write `config.problem_type`, and so change every later call and checkpoint.
        if logits.shape[-1] < 2:
            raise ValueError("`labels` need a model with `num_labels` of at least 2, got 1: its cross-entropy is 0.")
        labels = labels.to(logits.device)
        if num_items_in_batch is None:
            return F.cross_entropy(logits.float(), labels)
        return F.cross_entropy(logits.float(), labels, reduction="sum") / num_items_in_batch


def _is_plain(layer: nn.Module) -> bool:
    """Whether a layer is as it was built: its weights and nothing else decide what it gives."""
    if layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer):
        return False
    weights = list(layer.parameters())
    # A parameter in the hands of `torch.func` or of a mesh is of another type.
    plain = all(type(weight) is nn.Parameter and type(weight.data) is torch.Tensor for weight in weights)
    if not plain or any(weight.dtype != torch.float32 or weight.device.type != "cpu" for weight in weights):
        return False
    if type(layer) is nn.Embedding:
        return layer.max_norm is None
    if type(layer) is not nn.Conv1d or layer.bias is None:
        return False  # an adapter, say, stands in its place
    return (layer.stride, layer.padding, layer.dilation, layer.groups) == ((1,), (0,), (1,), 1)


def _left_align(values: torch.Tensor, is_real: torch.Tensor, filler: float) -> torch.Tensor:
    """
    Move the real tokens of each row to its front, in their order, and put `filler` after them; shapes are kept.

    Args:
        values (`torch.Tensor` of shape `(batch_size, sequence_length, ...)`): Token ids or embeddings.
        is_real (`torch.Tensor` of shape `(batch_size, sequence_length)`): Which tokens count.
        filler (`float`): What stands for the others.
    """
    one_each = (*is_real.shape, *[1] * (values.dim() - 2))
    has_gap = (is_real[:, 1:] & ~is_real[:, :-1]).any()
    if has_gap:
        real_first = (~is_real).long().argsort(dim=1, stable=True)
        values = values.gather(1, real_first.view(one_each).expand_as(values))
        is_real = is_real.gather(1, real_first)
    return values.masked_fill(~is_real.view(one_each), filler)


__all__ = ["TextCNNConfig", "TextCNNForSequenceClassification"]
