"""`WorkerProcess`: starts a worker process, exchanges messages with it, and ends it.

The child runs `recon_worker.worker.loop` with inherited descriptors. It does not import the user's `__main__`, sees no
GPU, has its own environment (`child_environment`) and session, and outlives a killed training process.
"""

import contextlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from recon_worker.client.signals import sigpipe_blocked
from recon_worker.snapshot.slots import create_memory, read_all
from recon_worker.system.child_environment import child_command, child_environment
from recon_worker.system.handover import HURRY, SPOOL

_STDERR_CHARACTERS = 600
"""Limit of the stderr output shown in addition to the exception."""
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt|Warning)\b")
_EXIT_WAIT_S = 2.0
_MESSAGE_LIMIT = struct.pack("ll", 1, 500_000)
"""Timeout for one message in either direction, as a `timeval`: a stopped worker must not block training."""


class WorkerProcess:
    """A running worker.

    Args:
        brief: Descriptor of the shared memory that describes the run (`codec.dump_brief`).
        slots: Descriptors of the queue's slots.
        linger_s: Time that the worker may continue after the death of this process.
        spool: Descriptors as for `hand_over`; None before the run has a spool.

    Raises:
        OSError: The process cannot be started.
    """

    def __init__(self, brief: int, slots: Sequence[int], linger_s: float, spool: tuple[int, int] | None = None) -> None:
        self._connection, child_end = Pipe()
        with socket.socket(fileno=os.dup(self._connection.fileno())) as end:
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):  # timeouts raise BlockingIOError
                end.setsockopt(socket.SOL_SOCKET, option, _MESSAGE_LIMIT)
            end.setblocking(True)  # otherwise a `socket.setdefaulttimeout` of the application takes effect
        self._handover, child_handover = socket.socketpair()
        self._handover.setblocking(True)
        child_handover.setblocking(True)
        self._stderr = create_memory("recon-log-stderr")
        if spool is not None:
            self.hand_over(*spool)
        inherited = (child_end.fileno(), child_handover.fileno(), brief)
        arguments = map(str, (os.getpid(), *inherited, linger_s, *slots))
        try:
            self._process = subprocess.Popen(
                child_command("recon_worker.worker.loop", *arguments),
                env=child_environment(os.environ, sys.path),
                pass_fds=(*inherited, *slots),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                start_new_session=True,
            )
        except BaseException:
            self.close_descriptors()
            raise
        finally:
            child_end.close()
            child_handover.close()
        self.pid = self._process.pid
        self._bound_to = _affinity(0)
        self._unbind()

    def hand_over(self, lock: int, folder: int) -> None:
        """Make the worker hold the run's spool from now on, even if it is stopped and does not receive the descriptors.

        Args:
            lock: Descriptor of the spool's lock.
            folder: Descriptor of its folder, whose path may lead elsewhere by the time the worker opens it.
        """
        with contextlib.suppress(OSError), sigpipe_blocked():  # the worker is dead
            socket.send_fds(self._handover, [SPOOL], [lock, folder])  # descriptors in transit stay open

    def hurry(self) -> None:
        """Tell the worker to run at normal priority."""
        with contextlib.suppress(OSError), sigpipe_blocked():
            self._handover.send(HURRY, socket.MSG_DONTWAIT)

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message. `receive` detects a dead worker.

        Raises:
            TimeoutError: The worker does not read its messages.
        """
        self._unbind()
        try:
            with sigpipe_blocked():
                self._connection.send_bytes(json.dumps(message).encode())
        except BlockingIOError as error:
            raise TimeoutError("it does not read its messages") from error
        except OSError:
            pass

    def _unbind(self) -> None:
        """Let the worker use all processors of this process's threads, if it inherited fewer.

        With OMP_PROC_BIND, OpenMP binds the thread that loads it, usually the main thread, to one processor. The worker
        would inherit this binding and compete with that thread.
        """
        allowed = set[int]().union(*map(_affinity, _threads("self")))
        if self._bound_to < allowed:
            for thread in _threads(self.pid):
                with contextlib.suppress(OSError):  # it has ended
                    if _affinity(thread) == self._bound_to:
                        os.sched_setaffinity(thread, allowed)

    def receive(self, timeout_s: float, wake: int) -> dict[str, Any] | None:
        """Return the next message; None after `timeout_s`, or as soon as the descriptor `wake` is readable.

        Empties `wake`, which must be non-blocking.

        Raises:
            EOFError: The worker is dead.
            TimeoutError: The worker stopped in the middle of a message.
        """
        try:
            ready = wait([self._connection, wake], timeout_s)
            if wake in ready:
                os.read(wake, 4096)
            if self._connection in ready:
                message: dict[str, Any] = json.loads(self._connection.recv_bytes())
                return message
        except BlockingIOError as error:
            raise TimeoutError("it stopped in the middle of a message") from error
        except OSError as error:
            raise EOFError from error
        if not ready and self._process.poll() is not None:
            raise EOFError  # the pipe may still be open: a process forked during the start holds the worker's end
        return None

    def end(self, *, kill: bool = False) -> str:
        """Wait briefly for the worker to exit, then kill it. Returns how it ended and its last stderr output."""
        how = end_process(self._process, 0.0 if kill else _EXIT_WAIT_S)
        said = last_words(read_all(self._stderr).decode(errors="replace"))
        self.close_descriptors()
        return f"{how}{'; it said: ' + said if said else ''}"

    def close_descriptors(self) -> None:
        """Close this process's ends. Forked children must do so too, or they keep the pipe open."""
        self._connection.close()
        self._handover.close()
        if self._stderr >= 0:
            os.close(self._stderr)
            self._stderr = -1


def _threads(process: int | str) -> list[int]:
    """Return the IDs of the threads of a process; empty if the system does not list them, as outside Linux."""
    with contextlib.suppress(OSError):
        return [int(place.name) for place in Path(f"/proc/{process}/task").iterdir()]
    return []


def _affinity(thread: int) -> set[int]:
    """Return the processors on which a thread may run, 0: the calling one; empty if it has ended, or outside Linux."""
    with contextlib.suppress(OSError, AttributeError):
        return os.sched_getaffinity(thread)
    return set()


def end_process(process: "subprocess.Popen[bytes]", patience_s: float) -> str:
    """Wait for a process to exit, then kill it. Returns how it ended, such as "exit code 1" or "killed by SIGSEGV"."""
    try:
        status = process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return "killed by this program"
    if status >= 0:
        return f"exit code {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:  # a real-time signal
        name = f"signal {-status}"
    return f"killed by {name}" + (", often out of memory" if name == "SIGKILL" else "")  # by the kernel


def last_words(text: str) -> str:
    """Return the end of a process's stderr: the last exception and what follows it, then the lines before it."""
    lines = text.strip().splitlines()
    number = next((n for n in reversed(range(len(lines))) if _EXCEPTION.match(lines[n])), len(lines) - 1)
    said, rest = lines[number:], lines[:number]
    while rest and sum(map(len, rest)) > _STDERR_CHARACTERS:
        del rest[0]
    return "\n".join([*said, *rest])
