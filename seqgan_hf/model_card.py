"""The card of the pair: everything it says is in `CardFacts`, how it says it in `templates/model_card.md`."""

import dataclasses
import json
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id

from .config import SeqGANConfig
from .stages import MLE, SEQGAN

_TAGS = ("seqgan", "seqgan_hf", "adversarial", "generated_from_trainer")
_CONTROLS = {
    "constant": "the same reward for every token",
    "shuffled": "those verdicts, shuffled over the texts of a batch",
    "random": "random noise",
}
_TEMPLATE = Path(__file__).with_name("templates") / "model_card.md"
_LABELS = {
    "nll": "NLL", "nll_best": "lowest NLL over the temperature", "NLL_oracle": "NLL under the oracle",
    "NLL_test": "NLL of the oracle's texts",
}  # fmt: skip
_LABELS_BY_ORDER = {"bleu": "BLEU", "self_bleu": "self-BLEU", "distinct": "distinct", "novelty": "novelty"}
# ASCII punctuation. What no rule of Markdown looks at stays legible in the source: marks inside words and numbers, the
# full stop of a sentence.
_STRUCTURE = re.compile(
    r"[!-&(-+/:-@\[-^`{-~]|(?<![0-9A-Za-z])[-_]|[-_](?![0-9A-Za-z])|\.(?=[^\d\s])|(?<![0-9A-Za-z])\.|(?<=\d)\.(?!\d)"
)
# Names of files and of people's folders are nobody's business, and arguments of loading may hold a token.
_LOOKS_LOCAL = re.compile(r"^[~./\\]|\\|^[A-Za-z]:/|://|^\S*/\S*/|\.(txt|csv|jsonl?|parquet)$")
_PRIVATE_SETTING = re.compile(r"(_dir|_kwargs|_token|_name|_path|_checkpoint|hub_model_id)$")


@dataclass(frozen=True)
class NetworkFacts:
    """
    What is said of one network.

    Args:
        architecture (`str`): Its class, such as `GPT2LMHeadModel`.
        base_model (`str`, *optional*): Hub id (or path, which is not shown) of the model that it was made from. `None`:
            of none on the Hub, but from scratch or from a local model.
        needs_remote_code (`bool`): Whether its code is in the repository, so that `trust_remote_code=True` is needed.
    """

    architecture: str
    base_model: str | None = None
    needs_remote_code: bool = False


@dataclass(frozen=True)
class CardFacts:
    """
    Everything a card is made from: plain data. What is `None` or empty is left out of the card.

    Args:
        model_id (`str`): `user/name` on the Hub, or the name of the local folder.
        title (`str`): The heading.
        generator, discriminator (`NetworkFacts`): The pair.
        start_token_id, pad_token_id (`int`), eos_token_id (`int`, *optional*): As in `TextFormat`.
        max_completion_length (`int`): The most tokens of a text, EOS included.
        temperature (`float`): At which the generator was trained.
        has_tokenizer (`bool`): `False`: the pair was trained on rows of ids.
        is_conditional (`bool`): Whether texts are completions of prompts.
        is_chat (`bool`): Whether these prompts are conversations, written by the tokenizer's chat template.
        discriminator_reads_ids (`bool`): Whether it reads the generator's token ids, or text by a tokenizer of its own.
        discriminator_reads_prompt (`bool`): Whether it reads the prompt before the completion.
        discriminator_reads_generator (`bool`): Whether it reads the generator beside the text, and so is nothing alone.
        is_adapter (`bool`): Whether the generator's files are those of a PEFT adapter alone.
        discriminator_is_adapter (`bool`): Whether the discriminator's are.
        discriminator_pads_anew (`bool`): Whether it had another padding token than the model that it was made from.
        dataset (`str`, *optional*): `owner/name` on the Hub, or a description that may be public.
        dataset_config, dataset_split, dataset_revision (`str`, *optional*): Of the texts that `stages` were measured on.
        settings (`Mapping`): The game's, by field name. Paths, names and arguments of loading are left out.
        defaults (`Mapping`): Defaults of settings that `SeqGANConfig` does not have.
        stages (`Mapping[str, Mapping[str, float]]`): In order, from `MLE` over its rivals to `SeqGAN`: metrics on
            held-out texts. `SeqGAN`'s become the results in the metadata.
        num_seeds (`int`): Runs that the figures are the mean of.
        num_updates, num_sets, seed (`int`, *optional*): Updates of the generator, sets of texts that the discriminator
            learned from, and the run's seed.
        seconds (`float`, *optional*): How long the game took.
        held_out_auc (`float`, *optional*): The discriminator's at the end, on texts it was not trained on; in [0, 1].
        curves (`str`, *optional*): Picture of the learning curves, relative to the card.
        samples (`Sequence[Mapping]`): Unselected texts: `prompt` (may be empty), `completion`, and `score`, the final
            discriminator's P(real) in [0, 1] or `None`.
        language (`str` or list of them), license (`str`), tags (`Sequence[str]`): Of the metadata, *optional*.
        versions (`Mapping[str, str]`): Of each package.
    """

    model_id: str
    title: str
    generator: NetworkFacts
    discriminator: NetworkFacts
    start_token_id: int
    pad_token_id: int
    eos_token_id: int | None
    max_completion_length: int
    temperature: float = 1.0
    has_tokenizer: bool = True
    is_conditional: bool = False
    is_chat: bool = False
    discriminator_reads_ids: bool = False
    discriminator_reads_prompt: bool = False
    discriminator_reads_generator: bool = False
    is_adapter: bool = False
    discriminator_is_adapter: bool = False
    discriminator_pads_anew: bool = False
    dataset: str | None = None
    dataset_config: str | None = None
    dataset_split: str | None = None
    dataset_revision: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    stages: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    num_seeds: int = 1
    num_updates: int | None = None
    num_sets: int | None = None
    seed: int | None = None
    seconds: float | None = None
    held_out_auc: float | None = None
    curves: str | None = None
    samples: Sequence[Mapping[str, Any]] = ()
    language: str | Sequence[str] | None = None
    license: str | None = None
    tags: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)


class _Markdown(str):
    """What stands in the card as it is. Every other string of the template is escaped on its way."""


def render_model_card(facts: CardFacts) -> str:
    """
    Write a card: metadata that the Hub reads, and Markdown that people read.

    Args:
        facts (`CardFacts`): What is known of the pair.

    Returns:
        `str`: the README.md of its repository; the same facts give the same text.
    """
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, finalize=_escape_unless_markdown
    )
    environment.filters.update(
        code=_code, label=_label, number=_number, origin=_origin, reference=_reference, text=_text
    )
    settings = {name: value for name, value in facts.settings.items() if _is_public(name, value)}
    defaults = {option.name: option.default for option in dataclasses.fields(SeqGANConfig)} | dict(facts.defaults)
    control = _control(facts)
    body = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        facts=facts,
        control=control,
        reward=_CONTROLS.get(control, "a control"),
        changes=_changes(facts.stages),
        sampling=_sampling(facts),
        settings=settings,
        defaults=defaults,
        changed={name: value for name, value in settings.items() if name in defaults and value != defaults[name]},
        metrics=list(dict.fromkeys(metric for metrics in facts.stages.values() for metric in metrics)),
        duration=None if facts.seconds is None else _Markdown(timedelta(seconds=round(facts.seconds))),
        curves=_Markdown(quote(facts.curves)) if facts.curves else None,
        shows_prompts=any(_visible(sample["prompt"]) for sample in facts.samples),
    )
    body = re.sub(r"\n{3,}", "\n\n", body).strip()
    return f"---\n{_metadata(facts).to_yaml()}\n---\n\n{body}\n"


def escape(text: str, most: int = 300) -> str:
    """
    Write any text so that neither Markdown nor HTML finds structure in it, even inside a cell of a table.

    ASCII punctuation becomes numeric character references: CommonMark reads them as text, always. White space collapses
    to single spaces, as it does on the page. Characters that show nothing go: controls, lone surrogates, and those of
    format (zero-width, or turning the direction of what follows).

    Args:
        text (`str`): Anything.
        most (`int`): The most characters shown; a longer text is cut, with `…` as the last of them.

    Returns:
        `str`: one line.
    """
    text = _visible(text)
    text = text if len(text) <= most else text[: most - 1].rstrip() + "…"
    return _STRUCTURE.sub(lambda mark: f"&#{ord(mark[0])};", text)


def _visible(text: str) -> str:
    shown = (" " if char.isspace() else char for char in text)
    return " ".join("".join(char for char in shown if unicodedata.category(char) not in ("Cc", "Cf", "Cs")).split())


def _escape_unless_markdown(value: Any) -> Any:
    return value if isinstance(value, (_Markdown, int, float)) else escape(str(value))


def _code(text: str) -> _Markdown:
    """A string as Python writes it, on one line."""
    return _Markdown(json.dumps(_visible(text), ensure_ascii=False))


def _control(facts: CardFacts) -> str:
    return str(facts.settings.get("reward_control", "none"))


def _sampling(facts: CardFacts) -> _Markdown:
    """The arguments of `generate` under which the generator was trained, one a line."""
    arguments = {
        "do_sample": True,
        "top_k": 0,
        "top_p": 1.0,
        "temperature": facts.temperature,
        "max_new_tokens": facts.max_completion_length,
        "eos_token_id": facts.eos_token_id,
        "pad_token_id": facts.pad_token_id,
    }
    return _Markdown("\n    ".join(f"{name}={value}," for name, value in arguments.items() if value is not None))


def _changes(stages: Mapping[str, Mapping[str, float]]) -> _Markdown:
    before, after = stages.get(MLE, {}), stages.get(SEQGAN, {})
    shared = [metric for metric in after if metric in before and metric != "temperature"]
    return _Markdown(
        ", ".join(f"{escape(_label(name))} from {_number(before[name])} to {_number(after[name])}" for name in shared)
    )


def _number(value: float, digits: int | None = None) -> _Markdown:
    digits = (4 if abs(value) < 10 else 2) if digits is None else digits
    return _Markdown(f"{value:.{digits}f}")


def _label(metric: str) -> str:
    name, order = re.fullmatch(r"(.*?)(\d*)", metric, re.DOTALL).groups()  # type: ignore[union-attr]  # fits anything
    return f"{_LABELS_BY_ORDER[name]}-{order}" if order and name in _LABELS_BY_ORDER else _LABELS.get(metric, metric)


def _text(text: str) -> str:
    return text if _visible(text) else _Markdown("*(empty)*")


def _origin(network: NetworkFacts) -> str:
    return "no model on the Hub" if network.base_model is None else _reference(network.base_model) or "a local model"


def _reference(name: str | None, kind: str = "") -> str | None:
    """A link to a model (or to one of the `datasets/`) if the name is an id on the Hub; `None` if it looks local."""
    if name is None or _LOOKS_LOCAL.search(name):
        return None
    is_hub_id = _is_hub_id(name, needs_owner=bool(kind))
    return _Markdown(f"[{escape(name)}](https://huggingface.co/{kind}{name})") if is_hub_id else name


def _is_hub_id(name: str | None, needs_owner: bool) -> bool:
    if name is None or _LOOKS_LOCAL.search(name) or (needs_owner and "/" not in name):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _is_public(name: str, value: Any) -> bool:
    is_plain = value is None or isinstance(value, (bool, int, float, str))
    looks_private = _PRIVATE_SETTING.search(name) or _LOOKS_LOCAL.search(str(value)) or "/" in str(value)
    return is_plain and not looks_private


def _metadata(facts: CardFacts) -> ModelCardData:
    """
    What the Hub files the repository under.

    `base_model` is the generator's alone: of two, the Hub would say that they were merged.
    """
    base_model = facts.generator.base_model
    if not _is_hub_id(base_model, needs_owner=False):
        base_model = None
    relation = "adapter" if facts.is_adapter else "finetune"
    results = _results(facts)
    languages = [facts.language] if isinstance(facts.language, str) else facts.language or []
    return ModelCardData(
        language=[_visible(language) for language in languages] or None,
        license=_visible(facts.license or "") or None,
        library_name="peft" if facts.is_adapter else "transformers",
        pipeline_tag="text-generation",
        tags=[*_TAGS, *map(_visible, facts.tags)],
        base_model=None if base_model is None else [base_model],
        base_model_relation=None if base_model is None else relation,
        datasets=[facts.dataset] if facts.dataset and _is_hub_id(facts.dataset, needs_owner=True) else None,
        model_name=_visible(facts.model_id).rsplit("/", 1)[-1] if results else None,
        eval_results=results or None,
    )


def _results(facts: CardFacts) -> list[EvalResult]:
    name = facts.dataset or ""
    control = _control(facts)
    note = "" if control == "none" else f" (a control run, reward {control})"
    return [
        EvalResult(
            task_type="text-generation",
            task_name="Text Generation",
            dataset_type=name if _is_hub_id(name, needs_owner=True) else "unknown",
            dataset_name=_visible(name) if name and not _LOOKS_LOCAL.search(name) else "unknown",
            dataset_config=_visible(facts.dataset_config or "") or None,
            dataset_split=_visible(facts.dataset_split or "") or None,
            dataset_revision=_visible(facts.dataset_revision or "") or None,
            metric_type=_visible(metric),
            metric_name=_visible(_label(metric) + note),
            metric_value=float(value),
        )
        for metric, value in facts.stages.get(SEQGAN, {}).items()
        if math.isfinite(value) and metric != "temperature"
    ]
