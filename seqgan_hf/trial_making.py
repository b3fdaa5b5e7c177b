"""A blind test is made: real texts and those of some models, in one form, and what discriminators say of them."""

import dataclasses
import re
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .arguments import BlindArguments, JudgeArguments, TextRecipeArguments, TuringArguments
from .checkpoints import DISCRIMINATOR_FOLDER, write_whole
from .completions import Completions, decode_ids
from .corpora import load_held_out
from .data import TextFormat, is_conditional, prepare_dataset
from .discriminator import Discriminator, context_length
from .loading import find_tokenizer, load_generator
from .melodies import STEP_SECONDS, load_melodies
from .plots import note_name, plot_piano_rolls
from .samples import USUAL_LENGTH, complete_prompts, length_of_run, load_saved_discriminator, score_texts
from .tokenization import ideographs
from .tones import melody_to_wav
from .trial import MEDIA_FOLDER, PICTURE, REAL, SOUND, TRIAL_FILE, Item, Trial, load_trial, media_name
from .votes import VOTES_FILE

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_OF_THE_PLACE = {
    "output_dir", "host", "port", "allowed_hosts", "export_space", "results", "add_votes", "batch_size",
    "trust_remote_code",
}  # fmt: skip


def open_trial(args: JudgeArguments | TuringArguments, items: int) -> Trial:
    """
    Return the trial of a folder, which is made there if it has none yet.

    Args:
        args (`JudgeArguments` or `TuringArguments`): The models, the real texts, the folder. Of a trial that is there
            nothing but the folder need be told.
        items (`int`): Texts of each source.

    Returns:
        `Trial`

    Raises:
        OSError: If a model or the texts cannot be had.
        ValueError: If the trial there was made from something else, if models or texts are not named, or if they do not
            fit each other.
    """
    folder = Path(args.output_dir)
    asked = {name: value for name, value in dataclasses.asdict(args).items() if name not in _OF_THE_PLACE}
    asked["items"] = items
    if (folder / TRIAL_FILE).is_file():
        trial = load_trial(folder)
        if args.model or args.dataset_name:
            _require_same(trial.settings, asked, folder)
        print(f"Going on with the trial in {folder}: {len(trial.items)} items.")
        return trial
    if not args.model or not args.dataset_name:
        raise ValueError(
            f"There is no trial in {folder}, so that one is to be made: name a model by `--model`, and real texts that "
            "it was not trained on by `--dataset_name`."
        )
    if (folder / VOTES_FILE).exists():
        raise ValueError(
            f"{folder} has votes, and the trial that they belong to is gone. Choose another `--output_dir`."
        )
    trial = make_trial(args, items, asked, folder)
    print(f"The trial is in {folder}: {len(trial.items)} items of {', '.join(trial.sources)}.")
    return trial


def _require_same(settings: Mapping[str, Any], asked: Mapping[str, Any], folder: Path) -> None:
    other = [name for name in asked if asked[name] != settings.get(name)]
    if other:
        differences = ", ".join(f"`{name}` {settings.get(name)!r} and not {asked[name]!r}" for name in other)
        raise ValueError(
            f"The trial in {folder} was made with {differences}. Choose another `--output_dir`, or leave the settings "
            "out to go on with it."
        )


def make_trial(args: BlindArguments, items: int, settings: Mapping[str, Any], folder: Path) -> Trial:
    """
    Write and judge the texts of a trial, and keep it.

    Real texts go through the first model's tokenizer and are cut at the length that models may write, so that neither
    their spelling nor their length tells them from generated ones. No text is left out for what it looks like.

    Args:
        args (`BlindArguments`): The models and the real texts.
        items (`int`): Texts of each source.
        settings (`Mapping`): Kept with it.
        folder (`Path`): Where it goes.

    Returns:
        `Trial`

    Raises:
        OSError: If a model or the texts cannot be had.
        ValueError: If there are too few texts, or they do not fit the models.
    """
    labels = list(args.labels) or _labels(args.model)
    lengths = (length_of_run(model, args.revision) for model in args.model)
    length = args.max_completion_length or next(filter(None, lengths), USUAL_LENGTH)
    writers = [_Writer.load(name, args, length) for name in args.model]
    prepared = _real_rows(args, writers[0], items)
    has_prompts = any(list(row["prompt_ids"]) != [writers[0].text_format.start_token_id] for row in prepared)
    texts = {REAL: Completions.collate([dict(row) for row in prepared][:items], writers[0].text_format.pad_token_id)}
    for number, (label, writer) in enumerate(zip(labels, writers, strict=True), start=1):
        prompts = writer.prompts(prepared, writers[0], has_prompts)
        # Each source completes prompts of its own, where there are enough: a prompt that comes again gives itself away.
        chosen = [prompts[(number * items + index) % len(prompts)] for index in range(items)]
        texts[label] = complete_prompts(
            writer.model, chosen, writer.text_format, args.seed + number, args.temperature, args.batch_size
        ).to("cpu")
    writer_of = {REAL: writers[0], **dict(zip(labels, writers, strict=True))}
    scores: dict[str, dict[str, list[float]]] = {source: {} for source in texts}
    for name, label in zip(args.model, labels, strict=True):
        _add_scores(scores, name, label, writer_of, texts, has_prompts, args)
    made = _items(args.kind, texts, writer_of, scores, has_prompts)
    trial = Trial(args.kind, args.seed, {item.id: item for item in made}, tuple(labels), settings)
    folder.mkdir(parents=True, exist_ok=True)
    if args.kind == "music":
        trial = _with_media(trial, folder)
    write_whole(folder / TRIAL_FILE, trial.as_json())
    return trial


@dataclasses.dataclass
class _Writer:
    """A model, its tokenizer and how it writes."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    text_format: TextFormat

    @classmethod
    def load(cls, name: str, args: BlindArguments, length: int) -> "_Writer":
        hub = _hub(args)
        model = load_generator(name, **hub).to(PartialState().device).eval()
        tokenizer = find_tokenizer(name, **hub)
        return cls(model, tokenizer, TextFormat.from_model(model, tokenizer, length))

    def spells_as(self, other: "_Writer") -> bool:
        """Tell whether ids mean the same to both."""
        if self.tokenizer is None or other.tokenizer is None:
            return self.tokenizer is other.tokenizer
        return self.tokenizer.get_vocab() == other.tokenizer.get_vocab()

    def strings(self, texts: Completions) -> list[str]:
        return decode_ids(texts.completion_ids, texts.completion_mask, self.tokenizer)

    def prompt_strings(self, texts: Completions) -> list[str]:
        return decode_ids(texts.prompt_ids, texts.prompt_mask, self.tokenizer)

    def prompts(self, rows: Sequence[Mapping[str, Any]], first: "_Writer", has_prompts: bool) -> list[list[int]]:
        """Return the prompts of real texts in this model's ids."""
        if not has_prompts:
            return [[self.text_format.start_token_id]]
        if self.spells_as(first):
            return [list(row["prompt_ids"]) for row in rows]
        texts = Completions.collate([dict(row) for row in rows], first.text_format.pad_token_id)
        return [list(row["prompt_ids"]) for row in self.rows(first.prompt_strings(texts), ["."] * len(texts))]

    def rows(self, prompts: Sequence[str] | None, texts: Sequence[str]) -> list[dict[str, list[int]]]:
        """Encode texts; a blank one, which no row would be made of, is its end alone, or its padding."""
        eos, pad = self.text_format.eos_token_id, self.text_format.pad_token_id
        blank = {"prompt_ids": [self.text_format.start_token_id], "completion_ids": [pad if eos is None else eos]}
        columns = {"text": list(texts)} if prompts is None else {"prompt": list(prompts), "completion": list(texts)}
        kept = [index for index, text in enumerate(texts) if text.strip()]
        if not kept:
            return [blank] * len(texts)
        written = Dataset.from_dict({name: [column[index] for index in kept] for name, column in columns.items()})
        found = prepare_dataset(written.to_iterable_dataset(), self.tokenizer, self.text_format, "the texts judged")
        rows = dict(zip(kept, found, strict=True))
        return [rows.get(index, blank) for index in range(len(texts))]


def _hub(args: BlindArguments) -> dict[str, Any]:
    return {"trust_remote_code": args.trust_remote_code} | ({"revision": args.revision} if args.revision else {})


def _labels(models: Sequence[str]) -> list[str]:
    names = [Path(model).absolute().name if Path(model).is_dir() else model.rpartition("/")[2] for model in models]
    return [
        name if names.count(name) == 1 and name != REAL else f"{number}: {name}"
        for number, name in enumerate(names, start=1)
    ]


def _real_rows(args: BlindArguments, first: _Writer, items: int) -> list[Mapping[str, Any]]:
    """Return held-out texts as rows of ids, shuffled; all of them, as models complete the prompts of some more."""
    texts = _real_texts(args).shuffle(seed=args.seed)
    if args.kind == "poem" and "text" in texts.column_names:
        texts = texts.map(_without_marks)
    length = first.text_format.max_completion_length
    limit = context_length(first.model, first.tokenizer)
    limits = {} if limit is None else {"generator": limit}
    if not is_conditional(texts, first.text_format):
        texts = texts.select(range(min(items, len(texts))))
    rows = list(prepare_dataset(texts, first.tokenizer, first.text_format, "the real texts", context_lengths=limits))
    if len(rows) < items:
        raise ValueError(
            f"`{args.dataset_name}` has {len(rows)} texts to judge, and {items} are asked for. Lower `--items`, or give "
            "more texts."
        )
    assert all(len(row["completion_ids"]) <= length for row in rows)
    return rows


def _real_texts(args: BlindArguments) -> Dataset:
    path = Path(args.dataset_name)
    if args.kind == "music" and (path.suffix.lower() == ".zip" or (path.is_dir() and any(path.rglob("*.mid")))):
        return load_melodies(TextRecipeArguments(dataset_name=args.dataset_name), args.seed)["test"]
    return load_held_out(args)[0]


def _without_marks(row: dict[str, str]) -> dict[str, str]:
    return {"text": ideographs(row["text"])}


def _add_scores(
    scores: dict[str, dict[str, list[float]]],
    name: str,
    label: str,
    writer_of: Mapping[str, _Writer],
    texts: Mapping[str, Completions],
    has_prompts: bool,
    args: BlindArguments,
) -> None:
    """Let the discriminator that was saved with a model, if there is one, judge the texts of all sources."""
    own = writer_of[label]
    judge: Discriminator | None = load_saved_discriminator(
        name,
        DISCRIMINATOR_FOLDER,
        own.model,
        own.tokenizer,
        own.text_format,
        has_prompts,
        args.temperature,
        **_hub(args),
    )
    if judge is None:
        return
    for source, written in texts.items():
        writer = writer_of[source]
        if not own.spells_as(writer):
            prompts = writer.prompt_strings(written) if has_prompts else None
            rows = own.rows(prompts, writer.strings(written))
            written = Completions.collate(rows, own.text_format.pad_token_id)
        scores[source][label] = score_texts(judge, written.to(own.model.device), args.batch_size)


def _items(
    kind: str,
    texts: Mapping[str, Completions],
    writer_of: Mapping[str, _Writer],
    scores: Mapping[str, Mapping[str, Sequence[float]]],
    has_prompts: bool,
) -> list[Item]:
    """Write each text as it is shown, under an id that tells nothing."""
    strings = {source: writer_of[source].strings(written) for source, written in texts.items()}
    verse = _verse_length(strings[REAL]) if kind == "poem" else 0
    items = []
    for source, shown in strings.items():
        prompts = writer_of[source].prompt_strings(texts[source]) if has_prompts else [""] * len(shown)
        for block, (prompt, text) in enumerate(zip(prompts, shown, strict=True)):
            text = in_verses(ideographs(text), verse) if verse else tidy(text)
            of_item = {judge: values[block] for judge, values in scores[source].items()}
            items.append(Item(secrets.token_hex(8), block, text, tidy(prompt), source, of_item))
    return items


def tidy(text: str) -> str:
    """
    Return a text as it is shown: no space around it or at the ends of its lines, which differ from tokenizer to
    tokenizer, and no control characters.

    Args:
        text (`str`): Any.

    Returns:
        `str`
    """
    lines = _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text.strip().replace("\r\n", "\n"))
    return "\n".join(line.rstrip() for line in lines.split("\n"))


def in_verses(text: str, verse: int) -> str:
    """
    Break a poem into verses.

    Args:
        text (`str`): Without spaces.
        verse (`int`): Characters of a verse, at least 1.

    Returns:
        `str`: a verse a line.
    """
    return "\n".join(text[start : start + verse] for start in range(0, len(text), verse))


def _verse_length(real: Sequence[str]) -> int:
    """Return 5 or 7: what the usual length of the real poems is a multiple of, for the poems of all sources."""
    usual = Counter(len(ideographs(text)) for text in real).most_common(1)[0][0]
    return 7 if usual % 7 == 0 and usual % 5 else 5


def _with_media(trial: Trial, folder: Path) -> Trial:
    """Write the sound and the picture of each melody, in the order of the ids, and its notes in words."""
    media = folder / MEDIA_FOLDER
    media.mkdir(exist_ok=True)
    items = {}
    for id, item in sorted(trial.items.items()):
        keys = keys_of(item.text)
        (media / media_name(id, SOUND)).write_bytes(melody_to_wav(keys, STEP_SECONDS))
        plot_piano_rolls({"": [keys]}, media / media_name(id, PICTURE), step_seconds=STEP_SECONDS)
        notes = " ".join(note_name(key) if key else "rest" for key in keys)
        items[id] = dataclasses.replace(item, text=f"{len(keys)} steps of {STEP_SECONDS:g} seconds: {notes}")
    return dataclasses.replace(trial, items=items)


def keys_of(text: str) -> list[int]:
    """
    Read a melody that a model wrote. What is no key is left out, as nothing can play it.

    Args:
        text (`str`): Tokens parted by spaces.

    Returns:
        `list[int]`: keys from 1 to 88, and 0 for rests; a rest alone if there is none.
    """
    keys = [int(token) for token in text.split() if token.isascii() and token.isdigit() and int(token) <= 88]
    return keys or [0]
