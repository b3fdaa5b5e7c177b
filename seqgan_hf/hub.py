"""What goes to the Hub and what became of it: repositories, and pushes in the background."""

import os
import shlex
import shutil
from concurrent.futures import Future
from pathlib import Path

from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from transformers.trainer import TRAINER_STATE_NAME

# What a checkpoint holds of the pair itself, beside the state of training.
_PAIR = ("*.safetensors", "*.json", "*.py", "*.txt", "*.model", "*.jinja", "discriminator")
# What an output folder holds of the run.
_REPORT = ("README.md", "*.png", "metrics.json", "runs")
# Completions are data, which the Hub does not want among models; the first stage's generator would double the size.
# What is for this machine only, and what shows real texts.
_IGNORED = (
    "_*", "checkpoint-*", "completions/*", "mle*/*", "control_*/*", "melodies/*", "nearest.json", "config.yaml",
    TRAINER_STATE_NAME,
)  # fmt: skip
# huggingface_hub changed its HTTP library twice; this is whatever that one raises, for a refused connection, say.
_CONNECTION_ERROR: type[BaseException] = HfHubHTTPError.__bases__[0]


class PushError(RuntimeError):
    """A push to the Hub that failed. What was to be pushed is on disk."""


def create_repository(
    model_id: str | None, output_dir: str, token: str | None, private: bool | None, revision: str | None = None
) -> str:
    """
    Create a model repository, and a branch of it, unless they exist.

    Args:
        model_id (`str`, *optional*): `user/name`, or a name under the logged-in user; that of the folder by default.
        output_dir (`str`): The folder that will be pushed.
        token (`str`, *optional*): One that may write; that of `hf auth login` by default.
        private (`bool`, *optional*): Whether to make it private where it is new.
        revision (`str`, *optional*): The branch that will be pushed to.

    Returns:
        `str`: its full id.

    Raises:
        PushError: If the Hub cannot be reached, or refuses.
    """
    name = model_id or Path(output_dir).absolute().name
    try:
        created = HfApi().create_repo(name, token=token, private=private, exist_ok=True).repo_id
        if revision is not None:
            HfApi().create_branch(created, branch=revision, token=token, exist_ok=True)
        return created
    except (HfHubHTTPError, LocalTokenNotFoundError, _CONNECTION_ERROR) as error:
        raise PushError(
            f"`push_to_hub` was asked for, but the repository `{name}` could not be created or reached on the Hub "
            f"({first_line(error)}). Log in by `hf auth login` with a token that may write, check `hub_model_id`, or "
            "leave `push_to_hub` out and upload the folder later."
        ) from error


def how_to_push(model_id: str, folder: str | Path, revision: str | None = None) -> str:
    """
    Return the shell command that uploads a run's folder, as a push at the end does.

    Args:
        model_id (`str`): The repository.
        folder (`str` or `Path`): The run's `output_dir`.
        revision (`str`, *optional*): The branch.

    Returns:
        `str`
    """
    words = ["hf", "upload", model_id, str(folder), "."]
    words += [word for pattern in _IGNORED for word in ("--exclude", pattern)]
    return shlex.join([*words, "--revision", revision] if revision else words)


def result_of_push(job: "Future[CommitInfo]", what: str, model_id: str, again: str) -> CommitInfo:
    """
    Wait for a push.

    Args:
        job (`Future`): From `HfApi.upload_folder(run_as_future=True)`.
        what (`str`): Its commit message.
        model_id (`str`): The repository.
        again (`str`): The command that repeats it.

    Returns:
        `CommitInfo`

    Raises:
        PushError: If it failed; it says which push, why, and how to repeat it.
    """
    error = job.exception()
    if error is None:
        return job.result()
    raise PushError(
        f"The push {what!r} to `{model_id}` failed ({type(error).__name__}: {first_line(error)}). Nothing is lost: all "
        f"of it is on disk. Repeat it by: {again}"
    ) from error


class BackgroundPushes:
    """
    Uploads of checkpoints while training goes on.

    Args:
        token (`str`, *optional*): One that may write; that of `hf auth login` by default.
    """

    def __init__(self, token: str | None = None) -> None:
        self._api = HfApi(library_name="seqgan_hf", token=token)
        self._jobs: list[tuple[str, str, Path, Future[CommitInfo]]] = []

    def is_done(self) -> bool:
        """Return whether no upload is under way."""
        return all(job.done() for *_, job in self._jobs)

    def upload(
        self, model_id: str, folder: Path, what: str, revision: str | None, token: str | None = None
    ) -> "Future[CommitInfo]":
        """
        Upload a run's folder, without its checkpoints, after those under way.

        Args:
            model_id (`str`): The repository.
            folder (`Path`): The folder.
            what (`str`): The commit message.
            revision (`str`, *optional*): The branch.
            token (`str`, *optional*): One that may write, if not that of all others.

        Returns:
            `Future`
        """
        return self._api.upload_folder(
            repo_id=model_id,
            folder_path=folder,
            commit_message=what,
            revision=revision,
            token=token,
            ignore_patterns=list(_IGNORED),
            run_as_future=True,
        )

    def start(self, model_id: str, folder: Path, what: str, revision: str | None) -> None:
        """
        Upload what [`stage_checkpoint`] laid out, and delete it afterwards.

        Args:
            model_id (`str`): The repository.
            folder (`Path`): That folder.
            what (`str`): The commit message.
            revision (`str`, *optional*): The branch.
        """
        job = self._api.upload_folder(
            repo_id=model_id, folder_path=folder, commit_message=what, revision=revision, run_as_future=True
        )
        # At once: its links keep deleted checkpoints on the disk.
        job.add_done_callback(lambda _: shutil.rmtree(folder, ignore_errors=True))
        self._jobs.append((model_id, what, folder, job))

    def failures(self, again: str) -> list[str]:
        """
        Wait for all uploads, and say which failed. Each is said once.

        Args:
            again (`str`): The command that pushes what there is now.

        Returns:
            `list[str]`: a sentence for each.
        """
        said = []
        for model_id, what, _, job in self._jobs:
            try:
                result_of_push(job, what, model_id, again)
            except PushError as error:
                said.append(str(error))
        for _, _, folder, _ in self._jobs:
            shutil.rmtree(folder.parent, ignore_errors=True)
        self._jobs.clear()
        return said


def stage_checkpoint(checkpoint: Path, output_dir: Path, folder_in_repo: str | None) -> Path:
    """
    Lay out what a push of a checkpoint uploads, in a folder of its own: saving goes on meanwhile, and old checkpoints are
    deleted.

    Args:
        checkpoint (`Path`): A checkpoint's folder. Its files are never written again, so they are linked.
        output_dir (`Path`): The run's folder, whose report goes along.
        folder_in_repo (`str`, *optional*): Also upload the whole checkpoint, to be resumed from, under this name.

    Returns:
        `Path`: a folder under `output_dir` that no push of `output_dir` takes along.
    """
    stage = output_dir / "_push" / checkpoint.name
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    for source, patterns, copy in ((checkpoint, _PAIR, _link), (output_dir, _REPORT, shutil.copy2)):
        for path in (path for pattern in patterns for path in sorted(source.glob(pattern))):
            if path.name == TRAINER_STATE_NAME:
                continue  # only to be resumed from; it names folders of this machine
            if path.is_dir():
                shutil.copytree(path, stage / path.name, copy_function=copy)
            else:
                copy(path, stage / path.name)
    if folder_in_repo is not None:
        shutil.copytree(checkpoint, stage / folder_in_repo, copy_function=_link)
    return stage


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # not every file system has hard links
        shutil.copy2(source, target)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, for a sentence about it."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"
