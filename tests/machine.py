"""The machine of users of the test Hub, who come one after the other."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fork_server import ForkServer
from hub_server import WRITE_TOKEN, Account, HubServer

ROOT = Path(__file__).parent.parent
# What users import, and not this package: some of them do without it.
MODULES = [
    "accelerate.commands.accelerate_cli", "datasets", "evaluate", "fsspec.implementations.http",
    "huggingface_hub.cli.hf", "matplotlib.figure", "matplotlib.backends.backend_agg", "peft", "requests",
    "torch.utils.tensorboard", "transformers.pipelines", "transformers.trainer",
    *(f"transformers.models.{name}.modeling_{name}" for name in ("bert", "gpt2", "llama", "roberta")),
]  # fmt: skip


@dataclass
class Machine:
    """
    Programs that start at once, as forks, and the Hub at the one address that they know.

    The clients of the Hub read its address and the folder of their caches when they are imported, before any test
    begins. So these two stay, and what is found there is new: [`~Machine.new_hub`], [`~Machine.environment`].
    """

    hub: HubServer
    programs: ForkServer

    @property
    def python(self) -> str:
        return self.programs.python

    def new_hub(self, tokens: dict[str, Account] | None = None, verbose: bool = False) -> HubServer:
        """Return an empty Hub, which answers from now on; the one before it keeps what it holds."""
        self.hub = self.hub.replaced_by(tokens, verbose)
        return self.hub

    def environment(self, token: str | None = WRITE_TOKEN) -> dict[str, str]:
        """Return the environment of the next user's programs, and empty their home."""
        home = Path(self.programs.environment["HF_HOME"])
        shutil.rmtree(home)
        home.mkdir()
        return {**self.programs.environment, **({"HF_TOKEN": token} if token else {})}

    def run(
        self, command: Sequence[str], folder: Path, token: str | None = WRITE_TOKEN, **variables: str
    ) -> subprocess.CompletedProcess:
        """Run a user's command in a folder, with an empty home, and return how it ended and what it said."""
        return subprocess.run(
            command, capture_output=True, text=True, cwd=folder, env=self.environment(token) | variables, timeout=300,
            check=False,
        )  # fmt: skip


@contextlib.contextmanager
def start_machine(folder: Path) -> Iterator[Machine]:
    """Start a machine that lies in `folder`, a short path."""
    with HubServer() as hub:
        environment = hub.environment(folder, token=None) | {"OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        with ForkServer(folder, environment, MODULES) as programs:
            yield Machine(hub, programs)
