"""Signals held back while a snapshot is submitted."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import faulthandler, os, signal, sys
from recon_worker.client.signals import held_signals

faulthandler.register(signal.SIGUSR1, sys.stdout)
with held_signals():
    {inside}
{after}
print("goes on")
"""
SEND = "os.kill(os.getpid(), signal.SIGUSR1)"


def run(inside, after):
    program = PROGRAM.format(inside=inside, after=after)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


def test_a_handler_of_faulthandler_stays_installed():
    done = run("pass", SEND)

    assert done.returncode == 0, done.stderr
    assert "most recent call first" in done.stdout


def test_a_signal_for_faulthandler_is_delivered_afterwards():
    done = run(SEND, "")

    assert done.returncode == 0, done.stderr
    assert "most recent call first" in done.stdout


WRITES_TO_A_DEAD_WORKER = """
import os, signal
from recon_worker.client.process import WorkerProcess
from recon_worker.snapshot.slots import create_memory

signal.signal(signal.SIGPIPE, signal.SIG_DFL)
worker = WorkerProcess(create_memory("brief"), [], 0)
os.kill(worker.pid, signal.SIGKILL)
os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
worker.{write}
print(worker.end(), flush=True)
read, write = os.pipe()
os.close(read)
os.write(write, b"!")
"""


@pytest.mark.parametrize("write", ["send({})", "hurry()", "hand_over(0, 1)"])
def test_a_dead_worker_does_not_end_a_program_that_restored_sigpipe(write):
    """Which ends for the program's own pipes, as before."""
    code = WRITES_TO_A_DEAD_WORKER.replace("{write}", write)

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stdout) == (-signal.SIGPIPE, "killed by SIGKILL, often out of memory\n"), done.stderr
