"""Signals held back while a snapshot is submitted."""

import subprocess
import sys

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
