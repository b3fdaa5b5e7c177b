"""A blind test as a folder that can be pushed as a Space: a page, its texts, and nothing that tells their sources."""

import importlib.metadata
import json
import shutil
from pathlib import Path

import jinja2

from .checkpoints import write_whole
from .trial import MEDIA_FOLDER, TRIAL_FILE, Trial

KEY_FILE = "key.json"
_PACKAGE = Path(__file__).parent
_TEMPLATES = _PACKAGE / "templates"
# These import each other and the packages below alone, so that a Space needs no torch.
_MODULES = ("trial.py", "votes.py", "request_guard.py", "judge_server.py")
_PACKAGES = ("starlette", "uvicorn", "jinja2")
_WHAT = {"text": "texts", "poem": "poems", "music": "melodies"}


def export_space(trial: Trial, folder: str | Path, space: str | Path) -> str:
    """
    Write a trial as a Space: `app.py`, its `requirements.txt`, `Dockerfile` and `README.md`, the texts and the media.

    Args:
        trial (`Trial`): With its sources, which go to `key.json` in the folder of the trial and not to the Space.
        folder (`str` or `Path`): That of the trial.
        space (`str` or `Path`): The folder to write; it must be empty or new, or have been written by this.

    Returns:
        `str`: what was written and what comes next.

    Raises:
        ValueError: If the folder holds something else.
    """
    folder, space = Path(folder), Path(space)
    if space.exists() and any(space.iterdir()) and not (space / "judging").is_dir():
        raise ValueError(f"{space} holds something else. Choose a new folder for the Space.")
    (space / "judging" / "templates").mkdir(parents=True, exist_ok=True)
    for module in _MODULES:
        shutil.copyfile(_PACKAGE / module, space / "judging" / module)
    shutil.copyfile(_TEMPLATES / "judge.html", space / "judging" / "templates" / "judge.html")
    write_whole(space / "judging" / "__init__.py", '"""The page of a blind test, from seqgan_hf."""\n')
    shutil.copyfile(_TEMPLATES / "space_app.txt", space / "app.py")
    shutil.copyfile(_TEMPLATES / "space_dockerfile.txt", space / "Dockerfile")
    versions = [f"{package}=={importlib.metadata.version(package)}\n" for package in _PACKAGES]
    write_whole(space / "requirements.txt", "".join(versions))
    readme = jinja2.Template((_TEMPLATES / "space_readme.md").read_text(encoding="utf-8"), keep_trailing_newline=True)
    shown = {"items": len(trial.items), "what": _WHAT[trial.kind], "folder": folder.name}
    write_whole(space / "README.md", readme.render(shown))
    write_whole(space / TRIAL_FILE, trial.blind().as_json())
    if (folder / MEDIA_FOLDER).is_dir():
        shutil.copytree(folder / MEDIA_FOLDER, space / MEDIA_FOLDER, dirs_exist_ok=True)
    write_whole(folder / KEY_FILE, json.dumps({id: item.source for id, item in trial.items.items()}))
    return (
        f"The Space is in {space}. Push it: hf upload USER/SPACE {space} --repo-type space\n"
        f"What tells the sources stays here, in {folder / KEY_FILE}; see {space / 'README.md'}."
    )
