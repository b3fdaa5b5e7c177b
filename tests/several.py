"""Several processes that play one game: forks of the test's own, so that none imports anything again."""

import multiprocessing
import os
import socket
import traceback

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import distributed

TIMEOUT = 60


def in_processes(count, work, *args):
    """
    Let processes call a function at once, as a launcher would start them, and return what each of them returns.

    What it returns must go through a pipe. If one fails, its traceback is raised here.
    """
    port = free_port()
    context = multiprocessing.get_context("fork")
    pipes, processes = [], []
    for rank in range(count):
        here, there = context.Pipe(duplex=False)
        pipes.append(here)
        processes.append(context.Process(target=_be_one_of, args=(rank, count, port, there, work, args), daemon=True))
        processes[-1].start()
        there.close()
    results = []
    try:
        for rank, pipe in enumerate(pipes):
            if not pipe.poll(TIMEOUT):
                raise AssertionError(f"Process {rank} of {count} did not end within {TIMEOUT} seconds.")
            results.append(pipe.recv())
            if isinstance(results[-1], _Failure):
                raise AssertionError(f"Process {rank} of {count} failed:\n{results[-1].traceback}")
    finally:
        for process in processes:
            process.kill()
            process.join()
    return results


def free_port():
    """Return a port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class _Failure:
    def __init__(self, text):
        self.traceback = text


def _be_one_of(rank, count, port, pipe, work, args):
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    torch.manual_seed(0)
    try:
        result = work(*args)
        if distributed.is_initialized():
            distributed.barrier()
    except BaseException:
        result = _Failure(traceback.format_exc())
    pipe.send(result)
    pipe.close()
    os._exit(0)
