"""Tokenizers of runs from scratch, trained on their texts: bytes merged, whole words or single characters."""

import re
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

LEVELS = ("bpe", "word", "character")
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
"""How a word or character that is not in the vocabulary is written; an ordinary token, so that it shows."""

# A word, apostrophes and hyphens inside it included, or a punctuation mark; each with the space before it.
_WORDS = r" ?(?:\w+(?:['-]\w+)*|[^\w\s])"
# All ideographs of Unicode: the common block, its extension A before it, and the later extensions.
_NO_IDEOGRAPH = re.compile("[^\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U000323af]")


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, level: str = "bpe", ends: bool = True
) -> PreTrainedTokenizerFast:
    """
    Train a tokenizer on the texts of a run from scratch.

    Args:
        texts (`Iterable[str]`): The training texts.
        vocab_size (`int`): The most tokens, the special ones included. `bpe` takes at least one for every byte.
        level (`str`): `bpe`, byte-level: any text can be written and read back exactly. `word`: words and punctuation
            marks, with the space before them; white space collapses. `character`. The last two write [`UNKNOWN`] for what
            is not in the vocabulary, which the most frequent make up.
        ends (`bool`): Whether texts end with `</s>`. Off: they all have one length.

    Returns:
        `PreTrainedTokenizerFast` with `<s>`, `<pad>` and, where texts end, `</s>`.

    Raises:
        ValueError: If `level` is unknown, or `vocab_size` too small for it.
    """
    special_tokens = ["<pad>", "<s>", *["</s>"] * ends]
    if level not in LEVELS:
        raise ValueError(f"`tokenizer` must be one of {', '.join(LEVELS)}; got {level!r}.")
    train = _merged_bytes if level == "bpe" else _whole
    tokenizer = train(texts, vocab_size, level, special_tokens)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>" if ends else None,
        padding_side="left",
    )


def _merged_bytes(texts: Iterable[str], vocab_size: int, _: str, special_tokens: list[str]) -> Tokenizer:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    least = len(alphabet) + len(special_tokens)
    if vocab_size < least:
        raise ValueError(
            f"`vocab_size` must be at least {least}, for every byte and {len(special_tokens)} special tokens; "
            f"got {vocab_size}."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special_tokens, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _whole(texts: Iterable[str], vocab_size: int, level: str, special_tokens: list[str]) -> Tokenizer:
    unknown = UNKNOWN if level == "character" else f" {UNKNOWN}"
    first = [*special_tokens, unknown]
    if vocab_size <= len(first):
        raise ValueError(
            f"`vocab_size` must be above {len(first)}, the special tokens and the unknown one; got {vocab_size}."
        )
    tokenizer = Tokenizer(models.WordLevel(unk_token=unknown))
    if level == "word":
        one_space = [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip(), normalizers.Prepend(" ")]
        tokenizer.normalizer = normalizers.Sequence(one_space)
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORDS), "isolated")
        tokenizer.decoder = decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        tokenizer.decoder = decoders.Fuse()
    tokenizer.train_from_iterator(
        texts, trainers.WordLevelTrainer(vocab_size=vocab_size - len(first), show_progress=False)
    )
    # The unknown token would be left out of a decoded text if the trainer made it, as it makes special ones.
    found = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    vocabulary = dict.fromkeys([*first, *found])
    tokenizer.model = models.WordLevel({token: number for number, token in enumerate(vocabulary)}, unk_token=unknown)
    tokenizer.add_special_tokens(special_tokens)
    return tokenizer


def ideographs(text: str) -> str:
    """Leave punctuation, white space and whatever else is no Chinese character out of a poem."""
    return _NO_IDEOGRAPH.sub("", text)
