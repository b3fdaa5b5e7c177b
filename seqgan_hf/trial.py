"""
What people judge blind: the items of a trial, and the order in which each judge sees them.

With `votes`, `request_guard` and `judge_server` this goes to a Space as it is, so that it imports nothing but the
standard library.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REAL = "real"
TRIAL_FILE = "trial.json"
MEDIA_FOLDER = "media"
KINDS = ("text", "poem", "music")
SOUND, PICTURE = ".wav", ".png"


@dataclass(frozen=True)
class Item:
    """
    A text that is judged.

    Args:
        id (`str`): Random, so that it tells nothing.
        block (`int`): Each block holds one item of every source.
        text (`str`): As it is shown; of music its notes in words.
        prompt (`str`): What it completes; may be empty.
        source (`str`): `real` or the label of a model; empty where it is not to be known.
        scores (`dict[str, float]`): P(real), in [0, 1], by the label of the model whose discriminator says so.
    """

    id: str
    block: int
    text: str
    prompt: str = ""
    source: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """
    A blind test, made once and judged by any number of people.

    Args:
        kind (`str`): `text`, `poem` or `music`.
        seed (`int`): Decides the order of each judge.
        items (`dict[str, Item]`): By their ids.
        models (`tuple[str, ...]`): The labels of the models, the baseline first; empty where they are not to be known.
        settings (`dict`): What the trial was made from.
    """

    kind: str
    seed: int
    items: Mapping[str, Item]
    models: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sources(self) -> tuple[str, ...]:
        """`real`, and the labels of the models."""
        return (REAL, *self.models)

    def order_for(self, judge: str) -> list[str]:
        """
        Return the ids of all items as one judge sees them: block after block, so that whoever stops early has judged
        each source as often as the others, up to one.

        Args:
            judge (`str`): The judge's name. Another name has another order, the same name always the same.

        Returns:
            `list[str]`
        """

        def place(of: Any) -> bytes:
            return hashlib.sha256(f"{self.seed} {judge} {of}".encode()).digest()

        return sorted(self.items, key=lambda id: (place(self.items[id].block), place(id)))

    def as_json(self) -> str:
        """Return the trial as text that [`load_trial`] reads."""
        return json.dumps(
            {
                "kind": self.kind,
                "seed": self.seed,
                "models": list(self.models),
                "settings": dict(self.settings),
                "items": [dataclasses.asdict(item) for _, item in sorted(self.items.items())],
            },
            indent=1,
            ensure_ascii=False,
        )

    def blind(self) -> "Trial":
        """Return the trial without what would tell where its items come from."""
        items = {id: dataclasses.replace(item, source="", scores={}) for id, item in self.items.items()}
        return Trial(self.kind, self.seed, items)

    def with_sources(self, sources: Mapping[str, str]) -> "Trial":
        """
        Return a blind trial with its sources.

        Args:
            sources (`Mapping[str, str]`): For each item its source.

        Raises:
            ValueError: If an item is missing.
        """
        if set(sources) != set(self.items):
            raise ValueError(
                f"The key must name the source of each of the {len(self.items)} items, and of no other; it has "
                f"{len(set(sources) & set(self.items))} of them and {len(set(sources) - set(self.items))} others. Take "
                "that of the same trial."
            )
        items = {id: dataclasses.replace(item, source=sources[id]) for id, item in self.items.items()}
        return dataclasses.replace(self, items=items, models=tuple(sorted({*sources.values()} - {REAL})))


def load_trial(folder: str | Path) -> Trial:
    """
    Read a trial.

    Args:
        folder (`str` or `Path`): Where its `trial.json` is.

    Returns:
        `Trial`

    Raises:
        ValueError: If there is none, or it is damaged.
    """
    path = Path(folder) / TRIAL_FILE
    if not path.is_file():
        raise ValueError(f"There is no {path}. Pass the folder of a trial, the `--output_dir` of `seqgan-hf judge`.")
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        items = {item["id"]: Item(**item) for item in read["items"]}
        return Trial(read["kind"], read["seed"], items, tuple(read["models"]), read["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no trial: {error}. Choose another folder, or remove it.") from error


def media_name(item: str, ending: str) -> str:
    """Return the name of an item's sound (`.wav`) or picture (`.png`), in the folder `media`."""
    return f"{item}{ending}"
