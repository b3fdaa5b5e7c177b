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
_TABLE_AT_MOST = 2**26  # numbers, 256 MiB
_TABLE_PAYS = (
    4  # a call of a quarter as many tokens as there are in the vocabulary: the next calls read the table, too
)


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


class TextCNNForSequenceClassification(PreTrainedModel):
    """
    Convolutions of several widths, maximum over time, highway and a linear head: the discriminator of SeqGAN
    (https://huggingface.co/papers/1609.05473, Eq. 11 and 12).

    A window of width w that starts at token i counts if i + w <= max(length, w), length being the number of real
    tokens of its row; embeddings of padding are zero. So more padding changes nothing, on either side, texts shorter
    than the widest filter work, and a batch without padding gets the convolution of the paper.

    A convolution of embeddings is a sum over the tokens of a window, and a vocabulary has few tokens. So, where no
    gradient is asked for, on a CPU and in float32, what each token gives to each filter is computed once and summed:
    the same but for rounding. That table holds `vocab_size * sum(filter_size * num_filters)` numbers, at most 256 MiB
    (beyond that: the convolution), stays as long as the weights stay as they are, and goes in training.

    Args:
        config ([`TextCNNConfig`]):
            Shape of the model.
    """

    config: TextCNNConfig
    config_class = TextCNNConfig

    def __init__(self, config: TextCNNConfig) -> None:
        super().__init__(config)
        self._table: _Table | None = None
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

        if input_ids is not None and (layers := self._layers_of_table(input_ids)):
            activations = self._look_up(input_ids, is_real, *layers)
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

    def _layers_of_table(self, input_ids: torch.Tensor) -> tuple[nn.Embedding, list[nn.Conv1d]] | None:
        """Embedding and convolutions, if a table may and should stand for them; otherwise nothing."""
        if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
            return None
        if self.embedding_dropout.training and self.embedding_dropout.p > 0:
            return None
        embeddings = self.embeddings
        if type(embeddings) is not nn.Embedding:
            return None  # an adapter, say, stands in its place
        convolutions = [layer for layer in self.convolutions if isinstance(layer, nn.Conv1d)]
        weights = [layer.weight for layer in convolutions]
        if any(
            weight.dtype != torch.float32 or weight.device.type != "cpu" for weight in [embeddings.weight, *weights]
        ):
            return None
        num_rows = len(embeddings.weight) + 1
        if num_rows * sum(weight[:, 0].numel() for weight in weights) > _TABLE_AT_MOST:
            return None
        if input_ids.numel() * _TABLE_PAYS < num_rows:
            return None
        known = bool((input_ids >= 0).all() and (input_ids < num_rows - 1).all())
        return (embeddings, convolutions) if known else None  # the embedding says what is wrong

    def _look_up(
        self,
        input_ids: torch.Tensor,
        is_real: torch.Tensor | None,
        embeddings: nn.Embedding,
        convolutions: list[nn.Conv1d],
    ) -> Iterator[torch.Tensor]:
        """Give what [`_convolve`] gives of the embeddings of these tokens, by sums of the table's rows."""
        if self._table is None or not self._table.is_of(embeddings.weight, convolutions):
            self._table = _Table(embeddings.weight, convolutions)
        padding = len(embeddings.weight)
        if is_real is not None:
            input_ids = _left_align(input_ids, is_real, padding)
        for width, rows in zip(self.config.filter_sizes, self._table.rows, strict=True):
            padded = F.pad(input_ids, (0, max(width - input_ids.shape[1], 0)), value=padding)
            places = torch.arange(width) * (padding + 1)
            windows = padded.unfold(1, width, 1) + places
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
                values = values.masked_fill_(missing, -torch.inf)
            # The same numbers; `amax` is faster forwards, `max` backwards.
            pooled.append(values.max(dim=-1).values if torch.is_grad_enabled() else values.amax(dim=-1))
        return torch.cat(pooled, dim=1).relu()

    def train(self, mode: bool = True) -> "TextCNNForSequenceClassification":
        """Switch dropout on or off; in training the table of what tokens give to filters goes, for it would not last."""
        if mode:
            self._table = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_table": None}

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


class _Table:
    """
    What each token gives to each filter at each place of a window.

    Args:
        embeddings (`torch.Tensor` of shape `(vocab_size, embedding_size)`): Of the tokens.
        convolutions (`list[nn.Conv1d]`): That read them.
    """

    @torch.no_grad()
    def __init__(self, embeddings: torch.Tensor, convolutions: list[nn.Conv1d]) -> None:
        self._of = [tensor.clone() for tensor in _read_by_table(embeddings, convolutions)]
        with_padding = F.pad(embeddings, (0, 0, 0, 1))
        self.rows = []  # of shape (filter_size * (vocab_size + 1), num_filters), for each width; padding comes last
        for convolution in convolutions:
            shares = with_padding @ convolution.weight.permute(2, 1, 0)
            if convolution.bias is not None:
                shares[0] += convolution.bias  # every window has one first token
            self.rows.append(shares.flatten(0, 1))

    def is_of(self, embeddings: torch.Tensor, convolutions: list[nn.Conv1d]) -> bool:
        """Whether these are the weights it was made of: a thousandth of the time of a batch, and never wrong."""
        return all(map(torch.equal, self._of, _read_by_table(embeddings, convolutions)))


def _read_by_table(embeddings: torch.Tensor, convolutions: list[nn.Conv1d]) -> list[torch.Tensor]:
    biases = [convolution.bias for convolution in convolutions if convolution.bias is not None]
    return [embeddings, *(convolution.weight for convolution in convolutions), *biases]


def _left_align(values: torch.Tensor, is_real: torch.Tensor, filler: float) -> torch.Tensor:
    """
    Move the real tokens of each row to its front, in their order, and put `filler` after them; shapes are kept.

    Args:
        values (`torch.Tensor` of shape `(batch_size, sequence_length, ...)`): Token ids or embeddings.
        is_real (`torch.Tensor` of shape `(batch_size, sequence_length)`): Which tokens count.
        filler (`float`): What stands for the others.
    """
    has_gap = (is_real[:, 1:] & ~is_real[:, :-1]).any()
    if has_gap:
        real_first = (~is_real).long().argsort(dim=1, stable=True)
        order = real_first.view(*real_first.shape, *[1] * (values.dim() - 2)).expand_as(values)
        values = values.gather(1, order)
        is_real = is_real.gather(1, real_first)
    return values.masked_fill(~is_real.view(*is_real.shape, *[1] * (values.dim() - 2)), filler)


__all__ = ["TextCNNConfig", "TextCNNForSequenceClassification"]
