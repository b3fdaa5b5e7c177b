"""What a program on the machine of the tests' users is: a fork, and yet like a new process."""

import json
import os
import signal
import subprocess

from fork_server import ForkServer
from hub_server import WRITE_TOKEN


def told_by(machine, folder, source, **variables):
    """Return what a Python program with `tell` told."""
    tell = "import json\ndef tell(*values): print(json.dumps(values))\n"
    result = machine.run(["python", "-c", tell + source], folder, **variables)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_the_clients_have_the_hubs_address_and_their_home_in_force_from_import_on(machine, tmp_path):
    """Set in a fork of a process that has imported them, such variables would be ignored without a word."""
    endpoints, places, offline, home, found, token = told_by(
        machine,
        tmp_path,
        """
import datasets, huggingface_hub, os, transformers.utils.hub
from datasets import config
from huggingface_hub import constants
places = (constants.HF_HOME, constants.HF_HUB_CACHE, config.HF_DATASETS_CACHE, config.HF_MODULES_CACHE)
tell(
    [constants.ENDPOINT, config.HF_ENDPOINT, huggingface_hub.HfApi().endpoint],
    [str(place) for place in (*places, transformers.utils.hub.HF_MODULES_CACHE)],
    [constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE],
    os.environ["HF_HOME"], os.listdir(constants.HF_HOME), huggingface_hub.get_token(),
)
""",
    )
    assert endpoints == [machine.hub.endpoint] * 3
    assert places == [home, f"{home}/hub", f"{home}/datasets", f"{home}/modules", f"{home}/modules"]
    assert offline == [False, False] and found == [] and token == WRITE_TOKEN


def test_other_values_of_what_is_read_at_import_are_refused(machine, tmp_path):
    variables = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1", "HF_TOKEN": "hf_other", "MINE": "1"}
    refused = machine.run(["python", "-c", "print('ran')"], tmp_path, **variables)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        "python is a fork, in which other values of HF_ENDPOINT, HF_HUB_OFFLINE would come too late.\n"
    )


def test_each_program_finds_an_empty_home_and_an_empty_hub(machine, tmp_path):
    push = """
import os, huggingface_hub
home, api = os.environ["HF_HOME"], huggingface_hub.HfApi()
before = os.listdir(home), api.repo_exists("tester/m")
api.create_repo("tester/m")
open(home + "/left", "w").close()
tell(*before)
"""
    first = machine.new_hub()
    assert told_by(machine, tmp_path, push) == [[], False]
    machine.new_hub()
    assert told_by(machine, tmp_path, push) == [[], False]
    assert first.commits("tester/m") == ["initial commit"], "the Hub before it keeps what it holds"


def test_a_program_has_its_own_modules_arguments_and_input(machine, tmp_path):
    source = (
        "import sys; print(__name__, sys.argv, 'seqgan_hf' in sys.modules, 'torch' in sys.modules, sys.stdin.read())"
    )
    told = subprocess.run(
        ["python", "-c", source, "a b", "-n"], input="typed", capture_output=True, text=True,
        env=machine.environment(), check=True,
    ).stdout  # fmt: skip
    assert told == "__main__ ['-c', 'a b', '-n'] False True typed\n"
    (tmp_path / "script.py").write_text("import sys, beside; print(sys.argv, beside.__file__)")
    (tmp_path / "beside.py").write_text("")
    told = machine.run(["python", "script.py", "x"], tmp_path).stdout
    assert told == f"['script.py', 'x'] {tmp_path / 'beside.py'}\n"


def test_what_is_not_seeded_differs_from_program_to_program(machine, tmp_path):
    source = "import random, numpy, uuid; tell(random.random(), numpy.random.rand(), str(uuid.uuid4()))"
    first, second = (told_by(machine, tmp_path, source) for _ in range(2))
    assert all(one != other for one, other in zip(first, second, strict=True))


def test_a_program_ends_as_a_process_does(machine, tmp_path):
    def end(source):
        result = machine.run(["python", "-c", source], tmp_path)
        return result.returncode, result.stdout, result.stderr.splitlines()[-1:]

    assert end("import sys; print('said'); sys.exit(3)") == (3, "said\n", [])
    assert end("raise SystemExit('for a reason')") == (1, "", ["for a reason"])
    assert end("import atexit; atexit.register(print, 'at last'); 1 / 0") == (
        1, "at last\n", ["ZeroDivisionError: division by zero"]
    )  # fmt: skip
    late = "import threading, time; threading.Thread(target=lambda: (time.sleep(0.2), print('late'))).start()"
    assert end(late) == (0, "late\n", [])
    assert end(f"import os; os.kill(os.getpid(), {signal.SIGKILL.value})")[0] == 1
    assert (
        end("import sys, subprocess; sys.exit(subprocess.run([sys.executable, '-c', 'exit(4)']).returncode)")[0] == 4
    )


def test_the_programs_end_with_their_server(tmp_path):
    source = "import time; print('runs', flush=True); time.sleep(600)"
    with ForkServer(tmp_path, os.environ, modules=[]) as server:
        program = subprocess.Popen(["python", "-c", source], env=server.environment, stdout=subprocess.PIPE)
        assert program.stdout.readline() == b"runs\n"
    assert program.wait(timeout=30) == 1
    program.stdout.close()
