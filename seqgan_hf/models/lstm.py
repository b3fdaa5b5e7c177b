"""
The generator of SeqGAN, a plain LSTM language model, as a Hugging Face causal language model.

This file travels with every saved model (`trust_remote_code=True`), so it imports torch and transformers only.
"""

from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple


class LSTMConfig(PreTrainedConfig):
    """
    Shape and initialisation of an [`LSTMForCausalLM`].

    The defaults are the generator of SeqGAN's synthetic experiment (https://huggingface.co/papers/1609.05473).

    Args:
        vocab_size (`int`, *optional*, defaults to 5000):
            Number of tokens; at least 1.
        embedding_size (`int`, *optional*, defaults to 32):
            Width of the token embeddings; at least 1.
        hidden_size (`int`, *optional*, defaults to 32):
            Width of the hidden and of the cell state; at least 1.
        num_hidden_layers (`int`, *optional*, defaults to 1):
            Number of stacked LSTM layers; at least 1.
        dropout (`float`, *optional*, defaults to 0.0):
            Dropout between the layers and on the output of the last, in [0, 1).
        initializer_range (`float`, *optional*, defaults to 0.1):
            Standard deviation of the normal distribution that every weight and every bias is drawn from.
        use_cache (`bool`, *optional*, defaults to `True`):
            Whether the model returns its state unless a call says otherwise.
        bos_token_id (`int`, *optional*):
            Start token.
        eos_token_id (`int` or `list[int]`, *optional*):
            End token or tokens.
        pad_token_id (`int`, *optional*):
            Padding token. The model never looks at it: the attention mask alone says what is skipped.
        tie_word_embeddings (`bool`, *optional*, defaults to `False`):
            Must stay `False`: the output head has its own weights.

    Raises:
        ValueError: If a size is below 1, `dropout` outside [0, 1) or `tie_word_embeddings` true.
    """

    model_type = "seqgan_lstm"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    vocab_size: int = 5000
    embedding_size: int = 32
    hidden_size: int = 32
    num_hidden_layers: int = 1
    dropout: float = 0.0
    initializer_range: float = 0.1
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        for name in ("vocab_size", "embedding_size", "hidden_size", "num_hidden_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` must lie in [0, 1), got {self.dropout}.")
        if self.tie_word_embeddings:
            raise ValueError("`tie_word_embeddings` must be False: the output head of LSTMForCausalLM is never tied.")
        super().__post_init__(**kwargs)


class LSTMCacheLayer(CacheLayerMixin):
    """
    The state of all LSTM layers after the tokens read so far.

    `keys` is the hidden and `values` the cell state, each of shape `(batch_size, num_hidden_layers, hidden_size)`, so
    that row operations written for attention caches hold here too. `cumulative_length` counts columns read, padding
    included, which is the length of the attention mask so far. No operation writes into a tensor it was given.
    """

    is_sliding = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cumulative_length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Take device and dtype from a first pair of states."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = key_states, value_states
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Replace the state by the one after `num_new_tokens` more columns, and return it.

        Args:
            key_states (`torch.Tensor` of shape `(batch_size, num_hidden_layers, hidden_size)`):
                The new hidden state.
            value_states (`torch.Tensor` of shape `(batch_size, num_hidden_layers, hidden_size)`):
                The new cell state.
            num_new_tokens (`int`, keyword only):
                Columns read since the last update; at least 1.
        """
        self.lazy_initialization(key_states, value_states)
        self.cumulative_length += kwargs["num_new_tokens"]
        return key_states, value_states

    def get_seq_length(self) -> int:
        """Columns read so far, padding included."""
        return self.cumulative_length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the attention mask for `query_length` more columns."""
        return self.cumulative_length + query_length, 0

    def get_max_length(self) -> int:
        """-1: the state has one size, whatever the length of the text."""
        return -1

    def reset(self) -> None:
        """Forget everything; the next batch may have another size."""
        self.keys = self.values = None
        self.is_initialized = False
        self.cumulative_length = 0

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Make row `i` the state of old row `beam_idx[i]`; repeats, and more indices than rows, fork the state."""
        if self.keys is not None and self.values is not None:
            self.keys = self.keys.index_select(0, beam_idx.to(self.keys.device))
            self.values = self.values.index_select(0, beam_idx.to(self.values.device))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row `repeats` times, copies side by side."""
        if self.keys is not None and self.values is not None:
            self.keys = self.keys.repeat_interleave(repeats, dim=0)
            self.values = self.values.repeat_interleave(repeats, dim=0)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the rows that `indices` (positions, or a boolean mask) names, in its order."""
        if self.keys is not None and self.values is not None:
            self.keys = self.keys[indices]
            self.values = self.values[indices]


class LSTMCache(Cache):
    """The `past_key_values` of an [`LSTMForCausalLM`]: one [`LSTMCacheLayer`] for all its layers."""

    def __init__(self) -> None:
        super().__init__(layers=[LSTMCacheLayer()])


class PortableLSTM(nn.LSTM):
    """
    `torch.nn.LSTM`, in its own precision where autocast asks for one that oneDNN has no kernel for: torch 2.13 ends in an
    error then, on every processor without AVX-512.
    """

    def forward(self, input: Any, hx: tuple[torch.Tensor, torch.Tensor] | None = None) -> Any:
        """As in `torch.nn.LSTM`."""
        if not torch.is_autocast_enabled("cpu") or _has_kernel(torch.get_autocast_dtype("cpu")):
            return super().forward(input, hx)
        dtype = next(self.parameters()).dtype
        state = None if hx is None else (hx[0].to(dtype), hx[1].to(dtype))
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.to(dtype), state)


def _has_kernel(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():
        return True  # torch takes its own
    operations = torch.ops.mkldnn
    is_bfloat16 = dtype == torch.bfloat16
    return operations._is_mkldnn_bf16_supported() if is_bfloat16 else operations._is_mkldnn_fp16_supported()


class LSTMForCausalLM(PreTrainedModel, GenerationMixin):
    """
    Embedding, LSTM and output head: the generator of SeqGAN (https://huggingface.co/papers/1609.05473, Eq. 9 and 10).

    Positions where the attention mask is 0 leave the state untouched, wherever they stand, so that a padded text gets
    exactly the distribution of the unpadded one. The output at such a position is that after the last real token.

    Args:
        config ([`LSTMConfig`]):
            Shape and initialisation.
    """

    config: LSTMConfig
    config_class = LSTMConfig
    supports_gradient_checkpointing = False
    _is_stateful = True

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__(config)
        self.embeddings: nn.Module = nn.Embedding(config.vocab_size, config.embedding_size)
        self.lstm = PortableLSTM(
            config.embedding_size,
            config.hidden_size,
            num_layers=config.num_hidden_layers,
            # torch warns when there is no second layer to drop the input of.
            dropout=config.dropout if config.num_hidden_layers > 1 else 0.0,
            batch_first=True,
        )
        self.dropout = nn.Dropout(config.dropout)
        self.lm_head: nn.Module = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        for parameter in module.parameters(recurse=False):
            init.normal_(parameter, mean=0.0, std=self.config.initializer_range)

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        # generate() must not bring an attention cache: forward makes the LSTMCache.
        return False

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        return self.embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding."""
        self.embeddings = value

    def get_output_embeddings(self) -> nn.Module:
        """The output head."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the output head."""
        self.lm_head = new_embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: LSTMCache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """
        Next-token logits, and the loss if `labels` are given.

        Args:
            input_ids (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
                Token ids, in [0, vocab_size). Either these or `inputs_embeds`.
            attention_mask (`torch.Tensor` of shape `(batch_size, past_length + sequence_length)`, *optional*):
                1 where a token counts, 0 where it is skipped. Only the last `sequence_length` columns are read.
            past_key_values ([`LSTMCache`], *optional*):
                State after the tokens before `input_ids`. It is advanced in place.
            inputs_embeds (`torch.Tensor` of shape `(batch_size, sequence_length, embedding_size)`, *optional*):
                Embeddings to read instead of `input_ids`.
            labels (`torch.Tensor` of shape `(batch_size, sequence_length)`, *optional*):
                Token ids, shifted inside; -100 is ignored.
            use_cache (`bool`, *optional*):
                Whether to return the state; `config.use_cache` if omitted.
            logits_to_keep (`int` or `torch.Tensor`, *optional*, defaults to 0):
                Compute logits for that many last positions only (0: for all), or for the positions in a 1D tensor.
            kwargs:
                Passed to the loss function, which knows `num_items_in_batch`.

        Returns:
            [`~transformers.modeling_outputs.CausalLMOutputWithPast`]: `logits` of shape `(batch_size, kept_length,
            vocab_size)`, `past_key_values` if `use_cache`, `loss` if `labels` are given.

        Raises:
            ValueError: If not exactly one of `input_ids` and `inputs_embeds` is given, or if the mask or the cache
                does not fit the input.
            TypeError: If `past_key_values` is not an [`LSTMCache`].
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass exactly one of `input_ids` and `inputs_embeds`.")
        embeddings = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        batch_size, sequence_length = embeddings.shape[:2]

        use_cache = self.config.use_cache if use_cache is None else use_cache
        if past_key_values is None:
            past_key_values = LSTMCache()
        state = self._read_cache(past_key_values, embeddings)

        is_real = None if attention_mask is None else _last_columns(attention_mask, batch_size, sequence_length)
        if is_real is None or bool(is_real.all()):
            outputs, state = self.lstm(embeddings, state)
        else:
            outputs, state = self._skip_padding(embeddings, is_real, state)
        hidden, cell = (tensor.transpose(0, 1) for tensor in state)
        past_key_values.update(hidden, cell, 0, num_new_tokens=sequence_length)

        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(self.dropout(outputs[:, kept]))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values if use_cache else None)

    def _read_cache(self, cache: LSTMCache, embeddings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden and cell state as `nn.LSTM` takes them, `(num_hidden_layers, batch_size, hidden_size)`."""
        layer = cache.layers[0] if isinstance(cache, LSTMCache) else None
        if not isinstance(layer, LSTMCacheLayer):
            raise TypeError(
                f"`past_key_values` must be an LSTMCache, got {type(cache).__name__}. Leave it out, or pass the one "
                "that this model returned."
            )
        batch_size = embeddings.shape[0]
        if layer.keys is None or layer.values is None:
            zeros = embeddings.new_zeros(self.config.num_hidden_layers, batch_size, self.config.hidden_size)
            return zeros, zeros
        if layer.keys.shape[0] != batch_size:
            raise ValueError(
                f"`past_key_values` holds {layer.keys.shape[0]} rows, but the input has {batch_size}. Repeat or "
                "select its rows first, with `batch_repeat_interleave` or `reorder_cache`."
            )
        hidden, cell = (
            tensor.to(embeddings.device, embeddings.dtype).transpose(0, 1).contiguous()
            for tensor in (layer.keys, layer.values)
        )
        return hidden, cell

    def _skip_padding(
        self, embeddings: torch.Tensor, is_real: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """
        Run the LSTM over the real tokens of each row.

        Args:
            embeddings (`torch.Tensor` of shape `(batch_size, sequence_length, embedding_size)`):
                Input, padding included.
            is_real (`torch.Tensor` of shape `(batch_size, sequence_length)`):
                True where a token counts, in any pattern.
            state (`tuple` of two `torch.Tensor` of shape `(num_hidden_layers, batch_size, hidden_size)`):
                Hidden and cell state before the first column.

        Returns:
            Output of shape `(batch_size, sequence_length, hidden_size)`, at each column that after the last real
            token up to it, and the state after the last column.
        """
        lengths = is_real.sum(dim=1)
        real_first = (~is_real).long().argsort(dim=1, stable=True)
        compact = embeddings.gather(1, real_first.unsqueeze(-1).expand_as(embeddings))
        # A row of padding only cannot be packed: it reads one token, and its state is put back below.
        packed = pack_padded_sequence(compact, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
        packed_outputs, new_state = self.lstm(packed, state)
        outputs, _ = pad_packed_sequence(packed_outputs, batch_first=True)

        # Column 0 stands for "no real token yet", column k for the k-th real token.
        outputs = torch.cat([state[0][-1].unsqueeze(1).to(outputs.dtype), outputs], dim=1)
        num_read = is_real.long().cumsum(dim=1)
        outputs = outputs.gather(1, num_read.unsqueeze(-1).expand(-1, -1, outputs.shape[-1]))

        has_tokens = (lengths > 0).view(1, -1, 1)
        hidden, cell = (
            torch.where(has_tokens, new, old.to(new.dtype)) for new, old in zip(new_state, state, strict=True)
        )
        return outputs, (hidden, cell)


def _last_columns(attention_mask: torch.Tensor, batch_size: int, sequence_length: int) -> torch.Tensor:
    """The part of the mask that belongs to the current input, as booleans: `(batch_size, sequence_length)`."""
    if attention_mask.dim() != 2 or attention_mask.shape[0] != batch_size or attention_mask.shape[1] < sequence_length:
        raise ValueError(
            f"`attention_mask` must have shape ({batch_size}, past_length + {sequence_length}) to match the input, "
            f"got {tuple(attention_mask.shape)}."
        )
    return attention_mask[:, -sequence_length:] != 0


__all__ = ["LSTMCache", "LSTMConfig", "LSTMForCausalLM"]
