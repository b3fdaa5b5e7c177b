"""Checkpoints: written whole or not at all, and which of them a run can go on from."""

import contextlib
import json
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from .hub import first_line
from .processes import is_first, meet

logger = logging.get_logger(__name__)

STATE_FILE = "seqgan_state.pt"
DISCRIMINATOR_FOLDER = "discriminator"
# Checkpoints lie here while they are written; nothing takes it for one, and no push takes it along.
UNFINISHED_FOLDER = "_saving"
# What is replaced lies there, too, under a name with this before it, for a moment.
_REPLACED = "old-"
_TORCH_CANNOT_WRITE = ("file write failed", "unexpected pos", "PytorchStreamWriter", "enforce fail")
_OF_TORCH = {
    "optimizer.pt": "the generator's optimizer",
    "scheduler.pt": "its schedule",
    "rng_state*.pth": "random states",
}


class CheckpointError(OSError):
    """A checkpoint that could not be written. Those before it are as they were."""


def folders_of_pair(folder: str | Path) -> tuple[Path, Path]:
    """Return where the generator and where the discriminator of a pair lie that is saved in a folder."""
    return Path(folder), Path(folder) / DISCRIMINATOR_FOLDER


@contextlib.contextmanager
def written_whole(checkpoint: Path) -> Iterator[Path]:
    """
    Let a checkpoint be written elsewhere, and put it into its place when all of it is on the disk.

    All processes enter and leave at once. They write to the same folder; the first one makes it and puts it into place.

    Args:
        checkpoint (`Path`): Its folder `checkpoint-<step>`, which is replaced if it exists.

    Yields:
        `Path`: the folder to write to, of the same name.

    Raises:
        CheckpointError: If it cannot be written, to a full disk for example. What was written of it is removed.
    """
    aside = checkpoint.parent / UNFINISHED_FOLDER
    if not is_first():
        meet()
        yield aside / checkpoint.name
        meet()
        meet()
        return
    _put_back(checkpoint.parent)
    shutil.rmtree(aside, ignore_errors=True)
    unfinished = aside / checkpoint.name
    try:
        unfinished.mkdir(parents=True)
        meet()
        yield unfinished
        meet()
        for path in (*sorted(unfinished.rglob("*")), unfinished):
            _flush(path)
        if checkpoint.exists():
            os.rename(checkpoint, aside / f"{_REPLACED}{checkpoint.name}")
        os.rename(unfinished, checkpoint)
    except BaseException as error:
        _put_back(checkpoint.parent)
        shutil.rmtree(aside, ignore_errors=True)
        if not _is_about_writing(error):
            raise
        free = shutil.disk_usage(checkpoint.parent).free / 2**20
        raise CheckpointError(
            f"{checkpoint} could not be written ({first_line(error)}); {free:,.0f} MiB are free there. "
            f"Training stops. {_where_to_go_on(checkpoint.parent)}"
        ) from error
    shutil.rmtree(aside, ignore_errors=True)
    with contextlib.suppress(OSError):  # not every file system does that for folders
        _flush(checkpoint.parent)
    meet()


def _put_back(folder: Path) -> None:
    """Give a checkpoint its name again that was to be replaced, where the new one has not come."""
    for replaced in (folder / UNFINISHED_FOLDER).glob(f"{_REPLACED}*"):
        checkpoint = folder / replaced.name.removeprefix(_REPLACED)
        if not checkpoint.exists():
            os.rename(replaced, checkpoint)


def _is_about_writing(error: BaseException) -> bool:
    """Tell errors of a disk from all others; those of torch's writer are of no kind of their own."""
    if isinstance(error, RuntimeError):
        return any(sign in str(error) for sign in _TORCH_CANNOT_WRITE)
    return isinstance(error, (OSError, SafetensorError))


def write_whole(path: Path, text: str) -> None:
    """
    Write a file of text, whole or not at all; a file of that name is replaced. Of several processes the first writes.

    Args:
        path (`Path`): The file; its folder is made.
        text (`str`): Written as UTF-8.
    """
    if not is_first():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_text(text, encoding="utf-8")
    _flush(unfinished)
    os.replace(unfinished, path)


@contextlib.contextmanager
def refusing_code(checkpoint: str | Path) -> Iterator[None]:
    """
    Explain what torch refuses to read because it is more than tensors and numbers.

    Args:
        checkpoint (`str` or `Path`): What is read.

    Raises:
        ValueError: If it is refused.
    """
    try:
        yield
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{checkpoint} is refused: a file of it holds more than tensors and numbers, and might run code. Resume "
            "checkpoints that SeqGANTrainer wrote."
        ) from error


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _where_to_go_on(folder: Path) -> str:
    last = last_checkpoint(folder)
    if last is None:
        return "There is no earlier checkpoint. Free some space, or give another `output_dir`, and begin again."
    return (
        f"{last.name} is whole: free some space, or mend what it was, and go on from it with `resume_from_checkpoint`."
    )


def last_checkpoint(folder: str | Path) -> Path | None:
    """
    Find the newest checkpoint that a run can go on from.

    Those that are newer and not complete are left alone, and a warning for each says why it is skipped.

    Args:
        folder (`str` or `Path`): A run's `output_dir`; it need not exist.

    Returns:
        `Path`, or `None` if there is none.
    """
    folder = Path(folder)
    _put_back(folder)
    for path in (folder / UNFINISHED_FOLDER).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        logger.warning(f"{folder / path.name} is skipped: the run ended while it was being written.")
    for checkpoint in reversed(checkpoints_in(folder)):
        lack = what_is_wrong_with(checkpoint)
        if lack is None:
            return checkpoint
        logger.warning(f"{checkpoint} is skipped: {lack}.")
    return None


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the folders `checkpoint-<step>` of a run, the oldest first; they need not be complete."""
    found = {
        int(path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")): path
        for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
        if re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-\d+", path.name) and path.is_dir()
    }
    return [found[step] for step in sorted(found)]


def what_is_wrong_with(checkpoint: Path) -> str | None:
    """
    Say why a checkpoint cannot be resumed, as far as its files tell without being loaded.

    Args:
        checkpoint (`Path`): Its folder.

    Returns:
        `str`, such as "it lacks trainer_state.json", or `None` if it is complete.
    """
    if not checkpoint.is_dir():
        return "there is no such folder"
    state = checkpoint / TRAINER_STATE_NAME
    if not state.is_file():
        return f"it lacks {TRAINER_STATE_NAME}, the last file to be written"
    if not (checkpoint / STATE_FILE).is_file():
        return f"it lacks {STATE_FILE}, the state of the game"
    if not any(checkpoint.glob("*.safetensors")):
        return "it lacks the generator's weights"
    for pattern, what in _OF_TORCH.items():
        if not any(checkpoint.glob(pattern)):
            return f"it lacks {pattern}, {what}"
    if not any((checkpoint / DISCRIMINATOR_FOLDER).glob("*.safetensors")):
        return "it lacks the discriminator's weights"
    for index in checkpoint.rglob("*.safetensors.index.json"):
        for shard in sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())):
            if not (index.parent / shard).is_file():
                return f"it lacks {shard}, a part of the weights"
    broken = [path.relative_to(checkpoint) for path in sorted(checkpoint.rglob("*")) if _is_cut_off(path)]
    return f"{broken[0]} is cut off" if broken else None


def _is_cut_off(path: Path) -> bool:
    """Tell by its frame whether a file lacks its end; its contents are not read."""
    if path.suffix in (".pt", ".pth"):
        return not zipfile.is_zipfile(path)
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):
                return False
        if path.name == TRAINER_STATE_NAME:
            json.loads(path.read_text(encoding="utf-8"))
    except (SafetensorError, ValueError):
        return True
    return False
