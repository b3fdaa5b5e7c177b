"""What a classifier is given so that it can judge what a generator writes: labels, a tokenizer, rows, padding."""

import copy
import re
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from .adapters import embedding_rows, is_adapter
from .states import dropout_off

logger = logging.get_logger(__name__)

GENERATED, REAL = 0, 1
LABELS = {GENERATED: "generated", REAL: "real"}
# What detectors call the two.
_WORDS = {
    GENERATED: {"generated", "fake", "machine", "ai", "bot", "llm", "gpt", "chatgpt", "synthetic", "artificial"},
    REAL: {"real", "human", "authentic", "genuine", "original"},
}
_NEGATIONS = {"not", "non", "no"}


# ---- Labels --------------------------------------------------------------------------------------------------------


def label_settings() -> dict[str, Any]:
    """Return the labels of the game as arguments of `from_pretrained`."""
    return {"id2label": dict(LABELS), "label2id": {label: index for index, label in LABELS.items()}}


def check_labels(model: PreTrainedModel) -> None:
    """
    Compare the labels of a trained head with those of the game; a new one has names without a meaning. Labels of another
    kind are warned of.

    Args:
        model (`PreTrainedModel`): The classifier.

    Raises:
        ValueError: If they say the opposite.
    """
    labels: Any = model.config.id2label
    names = {int(index): str(name) for index, name in labels.items()}
    meanings = {index: _meaning(name) for index, name in names.items()}
    came = " and ".join(f"{name!r} ({index})" for index, name in sorted(names.items()))
    if meanings[GENERATED] == REAL or meanings[REAL] == GENERATED:
        raise ValueError(
            f"The discriminator must have the labels generated (0) and real (1); got {came}, which would reward the "
            "generator for the opposite. Swap the two rows of its head, or, if the names are wrong, set "
            f"`discriminator.config.id2label` to {LABELS}."
        )
    is_new = all(name == f"LABEL_{index}" for index, name in names.items())
    if not is_new and meanings != {GENERATED: GENERATED, REAL: REAL}:
        logger.warning(
            f"The discriminator has the labels {came}. They are taken for generated and real, so that the generator is "
            f"rewarded for the second. Set `discriminator.config.id2label` to {LABELS} to silence this."
        )


def _meaning(name: str) -> int | None:
    """Return the index of a label by its words, such as `AI-generated` or `ChatGPT`; `None` if they do not tell."""
    words = set(re.findall("[a-z]+", re.sub("([a-z])([A-Z])", r"\1 \2", name).lower()))
    meant = [index for index, known in _WORDS.items() if words & known]
    return meant[0] if len(meant) == 1 and not words & _NEGATIONS else None


# ---- Tokens --------------------------------------------------------------------------------------------------------


def own_tokenizer(
    model: PreTrainedModel,
    generator_tokenizer: PreTrainedTokenizerBase | None,
    own_tokenizer: PreTrainedTokenizerBase | None,
    generator_vocab_size: int,
) -> PreTrainedTokenizerBase | None:
    """
    Choose what a classifier reads texts by.

    Args:
        model (`PreTrainedModel`): The classifier.
        generator_tokenizer, own_tokenizer (`PreTrainedTokenizerBase`, *optional*): The generator's, and its own.
        generator_vocab_size (`int`): The ids that the generator can write.

    Returns:
        `PreTrainedTokenizerBase` to re-encode with, or `None` where the generator's ids can be read as they are.

    Raises:
        ValueError: If it can read neither texts nor ids.
    """
    if own_tokenizer is not None and generator_tokenizer is None:
        raise ValueError(
            "The discriminator has a tokenizer of its own, so the generator's texts must be decoded for it, but the "
            "generator has none. Pass the generator's tokenizer as `processing_class`."
        )
    num_rows, num_tokens = embedding_rows(model), generator_vocab_size
    if generator_tokenizer is not None:
        vocabulary = generator_tokenizer.get_vocab()
        if own_tokenizer is not None and own_tokenizer.get_vocab() != vocabulary:
            return own_tokenizer
        # Embeddings have rows to spare, and not as many in each model of a family.
        num_tokens = min(max(vocabulary.values()) + 1, generator_vocab_size)
    if num_rows < num_tokens and own_tokenizer is not None:
        raise ValueError(
            f"The discriminator has the generator's tokenizer, of {num_tokens} tokens, and an embedding of {num_rows} "
            f"rows. Call `discriminator.resize_token_embeddings({num_tokens})`."
        )
    if num_rows < num_tokens:
        raise ValueError(
            f"The discriminator would read the generator's token ids, but it knows {num_rows} tokens and the generator "
            f"writes {num_tokens}. Pass the discriminator's own tokenizer as `discriminator_processing_class`, "
            "so that texts are re-encoded, or a discriminator with the generator's vocabulary."
        )
    return None


def ready_for_batches(tokenizer: PreTrainedTokenizerBase, reads_prompt: bool) -> PreTrainedTokenizerBase:
    """
    Return a copy of a tokenizer that pads, and that cuts a long prompt at its beginning and not the completion behind it.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): A classifier's own.
        reads_prompt (`bool`): Whether prompts stand before completions.

    Returns:
        `PreTrainedTokenizerBase`

    Raises:
        ValueError: If it has no token to pad with.
    """
    tokenizer = copy.deepcopy(tokenizer)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token_id is None:
        raise ValueError(
            "The discriminator's tokenizer has no padding token, and no EOS to stand in for it. Set its `pad_token`."
        )
    if reads_prompt:
        tokenizer.truncation_side = "left"
    return tokenizer


def reads_generator(model: PreTrainedModel) -> tuple[str, ...]:
    """Return what a classifier reads of the generator beside the text: arguments of its `forward`."""
    return tuple(getattr(model.config, "reads_generator", ()))


def fit_rows(model: PreTrainedModel, generator_vocab_size: int) -> int | None:
    """
    Give a classifier that reads the generator's ids as many rows as the generator's embedding has, where it has fewer.

    Args:
        model (`PreTrainedModel`): The classifier, changed in place; an adapter's model, and what reads the generator,
            stay as they are.
        generator_vocab_size (`int`): The ids that the generator can write.

    Returns:
        `int`, *optional*: the ids that it knows, where these are not all.
    """
    if embedding_rows(model) >= generator_vocab_size:
        return None
    if reads_generator(model) or is_adapter(model):
        return embedding_rows(model)
    logger.info(f"The discriminator's embedding gets {generator_vocab_size} rows, as the generator's has.")
    model.resize_token_embeddings(generator_vocab_size, mean_resizing=False)
    return None


# ---- Padding -------------------------------------------------------------------------------------------------------


def fit_padding(model: PreTrainedModel, pad_token_id: int, pad_is_a_token: bool, generator_vocab_size: int) -> None:
    """
    Give a classifier that reads the generator's ids a padding token, where it has none, or one that would hide a word.

    Args:
        model (`PreTrainedModel`): The classifier, changed in place.
        pad_token_id (`int`): The generator's padding token.
        pad_is_a_token (`bool`): Whether that may stand in a text, too.
        generator_vocab_size (`int`): The ids that the generator can write.
    """
    came = model.config.pad_token_id
    is_a_word = came is not None and came < generator_vocab_size and (came != pad_token_id or pad_is_a_token)
    hides_a_token = is_a_word and not reads_generator(model)
    if came is None or (hides_a_token and _reads_up_to_padding(model)):
        _give_padding_token(model, generator_vocab_size if pad_is_a_token else pad_token_id)
    elif hides_a_token and came != pad_token_id:
        logger.warning(
            f"The discriminator pads with token {came}, which the generator may write as a word; the generator pads with "
            f"{pad_token_id}. Some classifiers take their positions from it. Set `discriminator.config.pad_token_id` to "
            "the generator's to silence this."
        )


def _reads_up_to_padding(model: PreTrainedModel) -> bool:
    """
    Tell whether a model takes its padding token for the end of a text, as classifiers on decoders do: told another one,
    it gives other logits for a text that ends in that token. The mask says here that nothing is padding.
    """
    padding = model.config.pad_token_id
    word, other = [token for token in range(3) if token != padding][:2]
    ids = torch.tensor([[word, padding]], device=model.device)
    logits = []
    with torch.inference_mode(), dropout_off(model):
        for told in (other, padding):
            model.config.pad_token_id = told
            logits.append(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits)
    return not torch.equal(*logits)


def _give_padding_token(model: PreTrainedModel, pad_token_id: int) -> None:
    """
    Tell a model its padding token. Classifiers on decoders find the last token of a text by it.

    Where the generator pads with EOS, that would hide every EOS from such a classifier, so it is told an id that the
    generator cannot write. A whole model gets a row for it. The model below an adapter stays as it is, or what is
    saved of the adapter would not fit it again: padding is read there as the last row, and the mask hides it.
    """
    if pad_token_id >= embedding_rows(model) and is_adapter(model):
        model.get_input_embeddings().register_forward_pre_hook(_read_padding_as_last_row)
    elif pad_token_id >= embedding_rows(model):
        model.resize_token_embeddings(pad_token_id + 1, mean_resizing=False)
    model.config.pad_token_id = pad_token_id


def _read_padding_as_last_row(embeddings: Any, args: tuple) -> tuple:
    return (args[0].clamp(max=embeddings.weight.shape[0] - 1), *args[1:])
