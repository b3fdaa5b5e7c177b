"""Who learns from which real texts: folds, texts held out, and endless shuffled batches that resume exactly."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset, IterableDataset

from .completions import Completions
from .data import ROW_NUMBER, AnyDataset
from .processes import num_processes

_SHUFFLE_BUFFER = 1000
_MOST_HELD_OUT = 1000


def generator_and_discriminator_folds(
    dataset: AnyDataset,
    discriminator_data: str,
    seed: int,
    share: float = 0.5,
    prepared_from: AnyDataset | None = None,
) -> tuple[list[AnyDataset], list[AnyDataset]]:
    """
    Decide which real texts each network learns from in which round.

    Round `r` takes the folds of index `r % len(folds)`. A maximum-likelihood stage before the game learns from the
    generator's first fold; called with the same arguments it gets the same texts. Who gets a text depends on its place
    in the dataset that was passed to the trainer, so a stage that parts the texts before they are prepared does it alike,
    whatever rows are left out there. A stream of several shards must be read by one worker: see
    [`require_one_count`].

    Args:
        dataset (`Dataset` or `IterableDataset`): The real texts, prepared or not.
        discriminator_data (`str`): `same`, `held_out` or `cross_fit`; see `SeqGANConfig`.
        seed (`int`): Decides who gets which texts.
        share (`float`): Of the texts that `held_out` gives to the discriminator, in (0, 0.5]; one in `1 / share`.
        prepared_from (`Dataset` or `IterableDataset`, *optional*): What `dataset` was prepared from, with `numbered`.
            By default the places in `dataset` count.

    Returns:
        `tuple` of two lists of datasets: the generator's folds and the discriminator's, equally many.

    Raises:
        ValueError: If there are too few texts to part.
    """
    if discriminator_data == "same":
        whole = _without_numbers(dataset, prepared_from)
        return [whole], [whole]
    one_in = round(1 / share) if discriminator_data == "held_out" else 2
    if isinstance(dataset, Dataset):
        if len(dataset) < one_in:
            raise ValueError(
                f"`discriminator_data='{discriminator_data}'` parts the texts, one in {one_in} to the other side, and "
                f"needs at least {one_in}; got {len(dataset)}. Add texts to `train_dataset`."
            )
        places = range(len(dataset)) if prepared_from is None else dataset[ROW_NUMBER][:]
        num_places = len(dataset if prepared_from is None else prepared_from)
        order = torch.randperm(num_places, generator=torch.Generator().manual_seed(seed)).tolist()
        held_out = set(order[one_in - 1 :: one_in])
        parts = [
            dataset.select([index for index, place in enumerate(places) if (place in held_out) == is_it])
            for is_it in (False, True)
        ]
        if not all(len(part) for part in parts):
            raise ValueError(
                f"`discriminator_data='{discriminator_data}'` parts the texts, and each row of one part is blank. Add "
                "texts to `train_dataset`."
            )
    else:
        # Shuffled, `datasets` would read shards in another order, and count from there; what skips keeps their order.
        parts = [dataset.filter(_OneIn(one_in, is_it), with_indices=True).skip(0) for is_it in (False, True)]
    parts = [_without_numbers(part, prepared_from) for part in parts]
    if discriminator_data == "held_out":
        return [parts[0]], [parts[1]]
    return parts, parts[::-1]


def require_one_count(dataset: AnyDataset, discriminator_data: str, num_workers: int) -> None:
    """
    Check that who reads a generator's fold counts all texts: of several workers each counts those of its shards, and
    would take some of the discriminator's for the generator's.

    Args:
        dataset (`Dataset` or `IterableDataset`): The real texts.
        discriminator_data (`str`): `held_out` gives the generator a fold; the others let its prompts be of all texts.
        num_workers (`int`): Of the `DataLoader` that reads the generator's prompts.

    Raises:
        ValueError: If several workers share the shards of a stream.
    """
    if discriminator_data != "held_out" or not isinstance(dataset, IterableDataset):
        return
    if num_workers > 1 and dataset.num_shards > 1:
        raise ValueError(
            f"`discriminator_data='held_out'` counts the texts of a stream, and {num_workers} workers would each count "
            f"those of their own among its {dataset.num_shards} shards. Set `dataloader_num_workers` to 1, or pass a "
            "map-style dataset."
        )


def _without_numbers(dataset: AnyDataset, prepared_from: AnyDataset | None) -> AnyDataset:
    return dataset if prepared_from is None else dataset.remove_columns(ROW_NUMBER)


@dataclass(frozen=True)
class _OneIn:
    count: int
    is_it: bool

    def __call__(self, row: Mapping[str, Any], index: int) -> bool:
        place = row.get(ROW_NUMBER, index)
        return (place % self.count == self.count - 1) == self.is_it


def hold_out(dataset: AnyDataset, share: float, seed: int) -> tuple[AnyDataset, AnyDataset]:
    """
    Split off the texts on which the discriminator is tested and never trained.

    Args:
        dataset (`Dataset` or `IterableDataset`): The discriminator's real texts.
        share (`float`): In (0, 0.5]. At most 1,000 texts are held out; a stream gives its first `share * 1000`.
        seed (`int`): Decides which.

    Returns:
        `tuple`: the texts to train on, and those held out; neither is empty.

    Raises:
        ValueError: If nothing would be left to train on.
    """
    if isinstance(dataset, IterableDataset):
        count = max(int(share * _MOST_HELD_OUT), 1)
        if next(iter(dataset.skip(count)), None) is None:
            raise ValueError(
                f"The first {count} texts of a stream are held out from the discriminator, and this one has no more. "
                "Pass a map-style dataset, or lower `discriminator_holdout`."
            )
        return dataset.skip(count), dataset.take(count)
    if len(dataset) < 2:
        raise ValueError(
            f"The discriminator needs at least 2 real texts, one to learn from and one to be tested on; got "
            f"{len(dataset)}. Add texts to `train_dataset`."
        )
    count = min(max(round(share * len(dataset)), 1), _MOST_HELD_OUT)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed)).tolist()
    return dataset.select(sorted(order[count:])), dataset.select(sorted(order[:count]))


class OneStream(torch.utils.data.IterableDataset):
    """
    A stream that several processes read alike, each to pick its rows: accelerate would give each some of its shards, and
    these may end at different times.

    Args:
        dataset (`IterableDataset`): Any.
    """

    def __init__(self, dataset: IterableDataset) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        yield from self.dataset

    def set_epoch(self, epoch: int) -> None:
        """As that of the dataset."""
        self.dataset.set_epoch(epoch)


def read_alike(dataset: Any, is_training: bool) -> Any:
    """
    Return a dataset as several processes read it.

    Args:
        dataset (`Any`): A stream of `datasets`; all else stays as it is.
        is_training (`bool`): As [`OneStream`]; else all of it as a list, whose length tells the rows that fill up the
            last batch from those that count.
    """
    if num_processes() == 1 or not isinstance(dataset, IterableDataset):
        return dataset
    return OneStream(dataset) if is_training else list(dataset)


class RealTexts:
    """
    Endless shuffled batches of real texts, resumable at any point.

    Args:
        dataset (`Dataset` or `IterableDataset`): From [`prepare_dataset`].
        pad_token_id (`int`): Fills the rows of a batch.
        seed (`int`): Decides the order, on its own generator: no draw here moves the global random state.
    """

    def __init__(self, dataset: AnyDataset, pad_token_id: int, seed: int) -> None:
        self.dataset = dataset
        self.pad_token_id = pad_token_id
        self.seed = seed
        self.epoch = 0
        self.taken = 0
        self._rows: Iterator[Mapping[str, Any]] | None = None

    def next(self, count: int) -> Completions:
        """Return the next `count` texts, beginning a new epoch in a new order where one ends."""
        rows: list[Mapping[str, Any]] = []
        while len(rows) < count:
            if self._rows is None:
                self._rows = self._epoch_rows(skip=self.taken)
            row = next(self._rows, None)
            if row is None:
                if self.taken == 0:
                    raise ValueError("The stream of real texts is empty: nothing to learn from. Check the dataset.")
                self.epoch, self.taken, self._rows = self.epoch + 1, 0, None
                continue
            self.taken += 1
            rows.append(row)
        return Completions.collate(rows, self.pad_token_id)

    def _epoch_rows(self, skip: int) -> Iterator[Mapping[str, Any]]:
        if isinstance(self.dataset, Dataset):
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            order = torch.randperm(len(self.dataset), generator=generator).tolist()
            return _read_in_blocks(self.dataset, order[skip:])
        stream = self.dataset.shuffle(seed=self.seed + self.epoch, buffer_size=_SHUFFLE_BUFFER)
        rows = iter(stream)
        for _ in range(skip):
            next(rows, None)
        return rows

    def state_dict(self) -> dict[str, int]:
        """Return where the reading stands."""
        return {"epoch": self.epoch, "taken": self.taken}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from `state`; a stream is read again up to there."""
        self.epoch, self.taken, self._rows = int(state["epoch"]), int(state["taken"]), None


class Replay:
    """
    The latest generated texts that the discriminator has learned from, to be learned from again.

    Experience replay, as in ColdGANs (https://huggingface.co/papers/2006.04643).

    Args:
        capacity (`int`): Texts that are kept; the oldest leave.
        pad_token_id (`int`): Fills the rows.
    """

    def __init__(self, capacity: int, pad_token_id: int) -> None:
        self.capacity = capacity
        self.pad_token_id = pad_token_id
        self.texts: Completions | None = None

    def add(self, texts: Completions) -> None:
        """Keep more texts."""
        kept = [texts] if self.texts is None else [self.texts, texts]
        self.texts = Completions.concatenate(kept, self.pad_token_id).select(slice(-self.capacity, None))

    def mix(self, fresh: Completions, share: float) -> Completions:
        """
        Replace some fresh texts by kept ones, chosen by torch's random state.

        Args:
            fresh (`Completions`): Fresh texts, in an order that means nothing.
            share (`float`): Of them to replace, in [0, 1); fewer while fewer are kept.

        Returns:
            `Completions`: as many as fresh ones.
        """
        if self.texts is None:
            return fresh
        count = min(round(share * len(fresh)), len(self.texts))
        old = self.texts.select(torch.randperm(len(self.texts))[:count].to(fresh.completion_ids.device))
        return Completions.concatenate([fresh.select(slice(count, None)), old], self.pad_token_id)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return what is kept; empty if nothing is."""
        return {} if self.texts is None else vars(self.texts)

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from `state`."""
        self.texts = Completions(**state) if state else None


class GameTexts:
    """
    The real texts of a game: who learns from which, and which are only for testing.

    Args:
        dataset (`Dataset` or `IterableDataset`): From `prepare_dataset`.
        pad_token_id (`int`): Fills the rows of a batch.
        discriminator_data (`str`): `same`, `held_out` or `cross_fit`; see `SeqGANConfig`.
        share (`float`): Of the texts that `held_out` gives to the discriminator.
        holdout (`float`): Share of the discriminator's texts on which it is tested and never trained.
        seed (`int`): Decides all orders and splits.
        prepared_from (`Dataset` or `IterableDataset`, *optional*): See [`generator_and_discriminator_folds`].

    Attributes:
        prompts (`Dataset` or `IterableDataset`): The texts whose prompts the generator completes.
    """

    def __init__(
        self,
        dataset: AnyDataset,
        pad_token_id: int,
        discriminator_data: str,
        holdout: float,
        seed: int,
        share: float = 0.5,
        prepared_from: AnyDataset | None = None,
    ) -> None:
        generator_folds, discriminator_folds = generator_and_discriminator_folds(
            dataset, discriminator_data, seed, share, prepared_from
        )
        is_whole = discriminator_data == "cross_fit"
        self.prompts = _without_numbers(dataset, prepared_from) if is_whole else generator_folds[0]
        split = [hold_out(fold, holdout, seed) for fold in discriminator_folds]
        self._generator = [RealTexts(fold, pad_token_id, seed + 1) for fold in generator_folds]
        self._discriminator = [RealTexts(train, pad_token_id, seed + 2) for train, _ in split]
        self._held_out = [RealTexts(held_out, pad_token_id, seed + 3) for _, held_out in split]

    def for_generator(self, game_round: int, count: int) -> Completions:
        """Return the next texts for the generator's likelihood term in a round."""
        return self._generator[game_round % len(self._generator)].next(count)

    def for_discriminator(self, game_round: int, count: int) -> Completions:
        """Return the next texts for the discriminator to learn from in a round."""
        return self._discriminator[game_round % len(self._discriminator)].next(count)

    def held_out(self, game_round: int, count: int) -> Completions:
        """Return texts to test the discriminator of a round on, at most `count`; all come once before one comes again."""
        texts = self._held_out[game_round % len(self._held_out)]
        return texts.next(min(count, len(texts.dataset)) if isinstance(texts.dataset, Dataset) else count)

    def first_held_out(self, count: int) -> Completions:
        """Return the first texts held out from the discriminator of the first round, at most `count`; no stream moves."""
        texts = self._held_out[0]
        return Completions.collate(list(itertools.islice(texts.dataset, count)), texts.pad_token_id)

    def state_dict(self) -> list[dict[str, int]]:
        """Return where the reading of each stream stands."""
        return [stream.state_dict() for stream in self._streams()]

    def load_state_dict(self, state: Sequence[Mapping[str, int]]) -> None:
        """
        Go on from `state`.

        Raises:
            ValueError: If it is of another `discriminator_data`.
        """
        if len(state) != len(self._streams()):
            raise ValueError(
                f"The checkpoint reads {len(state)} streams of real texts and this run {len(self._streams())}, because "
                "`discriminator_data` is another. Resume with that of the checkpoint (its training_args.json has it)."
            )
        for stream, position in zip(self._streams(), state, strict=True):
            stream.load_state_dict(position)

    def _streams(self) -> list[RealTexts]:
        return self._generator + self._discriminator + self._held_out


def _read_in_blocks(dataset: Dataset, order: Sequence[int], block: int = 256) -> Iterator[Mapping[str, Any]]:
    """Yield rows in `order`; read singly, each would cost a decoding of its own."""
    for start in range(0, len(order), block):
        columns = dataset[list(order[start : start + block])]
        for prompt_ids, completion_ids in zip(columns["prompt_ids"], columns["completion_ids"], strict=True):
            yield {"prompt_ids": prompt_ids, "completion_ids": completion_ids}
