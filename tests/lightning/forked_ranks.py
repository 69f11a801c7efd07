"""Ranks of a training run, forked from a process that has imported everything, which takes 5 s of processor time."""

import contextlib
import importlib
import itertools
import multiprocessing
import os
import socket

MODULES = (
    *("tests.lightning.rank_training", "tests.lightning.ending_ranks", "tests.lightning.quality_ranks"),
    "tests.capture.plain_loop",
)
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([*MODULES])


class Rank(_context.Process):
    """`main(argument)` of one of the modules as one of several ranks, with the environment that torchrun would set."""

    def __init__(self, module, argument, rank, ranks, port, output):
        super().__init__()
        self._call, self._output, sizes = (module, str(argument)), str(output), {"WORLD_SIZE", "LOCAL_WORLD_SIZE"}
        numbers = dict.fromkeys(sizes, ranks) | dict.fromkeys(("RANK", "LOCAL_RANK"), rank)
        numbers |= {"GROUP_WORLD_SIZE": 1, "GROUP_RANK": 0, "MASTER_PORT": port}
        environment = {name: str(number) for name, number in numbers.items()}
        self._environment = {**os.environ, **environment, "MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test"}

    def run(self):
        os.environ.update(self._environment)
        output = os.open(self._output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(output, stream)
        module, argument = self._call
        importlib.import_module(module).main(argument)


_ports = itertools.count(20_000 + os.getpid() % 10_000)
"""Below those that the system gives to other sockets, which would take a port before the ranks listen on it."""


def _is_free(port):
    with contextlib.suppress(OSError), socket.create_server(("", port)):
        return True
    return False


def fork_ranks(module, argument, folder, ranks=2):
    """Start the ranks. Their output goes to `folder/rank0.txt`, and so on."""
    port = next(filter(_is_free, _ports))
    started = [Rank(module, argument, rank, ranks, port, folder / f"rank{rank}.txt") for rank in range(ranks)]
    for one in started:
        one.start()
    return started
