"""
A process that has imported what takes long, so that the programs which a test starts are forks of it.

    with ForkServer(folder, environment, modules=["torch"]) as server:
        subprocess.run(["python", "-c", "import torch"], env=server.environment)

To import torch and transformers takes longer than most of what a test does with them. `python`, `accelerate`, ... on the
PATH of `server.environment` hand over to the process (`_CLIENT`), and what it forks has their arguments, folder, files
and environment, and no module but those asked for.

Libraries read some variables when they are imported, such as HF_ENDPOINT. In a fork it would be too late: a program
that is started with others than those in force is refused.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import re
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hub_server import CLIENT_VARIABLE

PROGRAMS = {
    "accelerate": "accelerate.commands.accelerate_cli:main",
    "hf": "huggingface_hub.cli.hf:main",
    "seqgan-hf": "seqgan_hf.cli:main",
}
# A token is read at each use.
_READ_AT_IMPORT = re.compile(rf"(?!HF_TOKEN$)({CLIENT_VARIABLE.pattern}|OMP_|PYTHON)", CLIENT_VARIABLE.flags)
_CLIENT = """\
#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as client:
    client.connect({address!r})
    job = json.dumps([os.path.basename(sys.argv[0]), sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(client, [len(job).to_bytes(4, "big")], [0, 1, 2])
    client.sendall(job)
    code = client.recv(1)
sys.exit(code[0] if code else 1)
"""


class ForkServer:
    """
    Programs that are forks of one process, while this is entered as a context.

    Args:
        folder (`Path`): Where the socket and the programs are put; a short path.
        environment (`Mapping[str, str]`): The variables of the process, in force when it imports.
        modules (`Sequence[str]`): What it imports; those that are missing are left out.
        programs (`Mapping[str, str]`, *optional*): More programs, as `module:function`, than `python` and [`PROGRAMS`].
        prepare (`str`, *optional*): A function, as `module:function`, that the process calls once, after its imports.
        python (`str`, *optional*): Who starts it: this Python, or that of another server, whose imports it then has.

    `python` is the path of the Python that forks, and `environment` that of the programs, which it has on its PATH.
    """

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        modules: Sequence[str],
        programs: Mapping[str, str] | None = None,
        prepare: str | None = None,
        python: str = sys.executable,
    ):
        self._programs = PROGRAMS | dict(programs or {})
        self._address = str(folder / "socket")
        self._settings = {"modules": modules, "programs": self._programs, "prepare": prepare}
        self._started_by = python
        self._variables = dict(environment)
        bin_folder = folder / "bin"
        self.python = str(bin_folder / "python")
        path = os.pathsep.join([str(bin_folder), str(Path(sys.executable).parent), environment["PATH"]])
        self.environment = {**environment, "PATH": path}

    def __enter__(self) -> "ForkServer":
        Path(self.python).parent.mkdir()
        for name in ("python", *self._programs):
            program = Path(self.python).with_name(name)
            program.write_text(_CLIENT.format(python=sys.executable, address=self._address))
            program.chmod(0o755)
        command = [self._started_by, __file__, self._address, json.dumps(self._settings)]
        self._process = subprocess.Popen(command, env=self._variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout.readline() == b"ready\n"
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate()  # closes its input, which ends it


def serve(address: str, settings: Mapping[str, Any]) -> None:
    """Import, and run each job in a fork until the input ends: with the tests, however they end."""
    os.setpgid(0, 0)
    in_force = _variables_read_at_import(os.environ)
    for name in settings["modules"]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    if settings["prepare"]:
        _find(settings["prepare"])()
    assert threading.active_count() == 1, "a fork has one thread"
    gc.freeze()  # a collection would copy the pages that the forks share
    signal.signal(signal.SIGCHLD, _reap)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        print("ready", flush=True)
        while 0 not in select.select([server, 0], [], [])[0]:
            client, _ = server.accept()
            if os.fork() == 0:
                server.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _run_job(client, Path(address).parent / "bin", settings["programs"], in_force)
            client.close()
    os.killpg(0, signal.SIGKILL)  # and what still runs


def _variables_read_at_import(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in environment.items() if _READ_AT_IMPORT.match(name)}


def _find(function: str) -> Any:
    module, name = function.split(":")
    return getattr(importlib.import_module(module), name)


def _reap(*_: object) -> None:
    """Wait for jobs that have ended, which adds their time to that of the tests."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _run_job(
    client: socket.socket, bin_folder: Path, programs: Mapping[str, str], in_force: Mapping[str, str]
) -> NoReturn:
    """Become the program that a client was called as."""
    size, files, *_ = socket.recv_fds(client, 4, 3)
    program, arguments, folder, environment = json.loads(client.makefile("rb").read(int.from_bytes(size, "big")))
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.executable = str(bin_folder / "python")
    sys.argv = [program, *arguments]
    sys.path[0] = str(bin_folder)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # as `random` is in a fork
    code = 0
    try:
        wanted = _variables_read_at_import(environment)
        if late := sorted(dict(wanted.items() ^ in_force.items())):
            raise SystemExit(f"{program} is a fork, in which other values of {', '.join(late)} would come too late.")
        code = _run_python(arguments) if program == "python" else _find(programs[program])() or 0
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    client.sendall(bytes([code]))
    os._exit(code)  # to take down all modules one by one lasts a second


def _run_python(arguments: list[str]) -> int:
    option, *rest = arguments
    if option in ("-c", "-m"):
        sys.path[0] = os.getcwd()
        sys.argv = [option if option == "-c" else rest[0], *rest[1:]]
        if option == "-m":
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(rest[0], "<string>", "exec"), sys.modules["__main__"].__dict__)
    else:
        sys.path[0] = str(Path(option).resolve().parent)
        sys.argv = arguments
        runpy.run_path(option, run_name="__main__")
    return 0


if __name__ == "__main__":
    serve(sys.argv[1], json.loads(sys.argv[2]))
