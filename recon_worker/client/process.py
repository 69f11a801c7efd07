"""One worker process, seen from the training process: start it, talk to it, end it.

The child is `recon_worker.worker.loop` with inherited descriptors. It does not import the user's `__main__`, sees no
GPU, has an environment (`child_environment`) and a session of its own, and dies with nothing of the training
process's.
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
from multiprocessing.connection import Connection, wait
from typing import Any

from recon_worker.snapshot.slots import create_memory, read_all
from recon_worker.system.child_environment import child_command, child_environment
from recon_worker.system.handover import HURRY, SPOOL

_STDERR_CHARACTERS = 600
"""Of what led to the exception."""
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt|Warning)\b")
_EXIT_WAIT_S = 2.0
_MESSAGE_WAIT_S = 1.5
"""A message that has begun must be over after this time, in either direction: a stopped process must stop nobody."""


class WorkerProcess:
    """A running worker.

    Args:
        brief: Descriptor of the memory with what there is to know about the run.
        slots: Descriptors of the slots.
        linger_s: How long it may go on when this process is dead.
        spool: See `hand_over`; none before there is a spool.

    Raises:
        OSError: The process cannot be started.
    """

    def __init__(self, brief: int, slots: Sequence[int], linger_s: float, spool: tuple[int, int] | None = None) -> None:
        self._connection, child_end = Pipe()
        _bound(self._connection)
        self._handover, child_handover = socket.socketpair()
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
        except OSError:
            self.close_descriptors()
            raise
        finally:
            child_end.close()
            child_handover.close()

    @property
    def pid(self) -> int:
        """Of the worker."""
        return self._process.pid

    def hand_over(self, lock: int, folder: int) -> None:
        """Have the worker hold a run's spool from now on: even if it is stopped, and never looks at what it was given.

        Args:
            lock: Descriptor of the spool's lock.
            folder: Of its folder: the name may lead elsewhere when a worker comes to it.
        """
        with contextlib.suppress(OSError):  # it is dead
            socket.send_fds(self._handover, [SPOOL], [lock, folder])  # what is on its way is held like an open file

    def hurry(self) -> None:
        """Tell the worker to stop yielding to other processes."""
        with contextlib.suppress(OSError):
            self._handover.send(HURRY, socket.MSG_DONTWAIT)

    def send(self, message: Mapping[str, Any]) -> None:
        """Tell the worker. A dead one is noticed by `receive`.

        Raises:
            TimeoutError: The worker does not read.
        """
        try:
            self._connection.send_bytes(json.dumps(message).encode())
        except BlockingIOError as error:
            raise TimeoutError("it takes no messages") from error
        except OSError:
            pass

    def receive(self, timeout_s: float, wake: int) -> dict[str, Any] | None:
        """The next message; None after a while, or as soon as the descriptor `wake` can be read.

        Raises:
            EOFError: The worker is dead.
            TimeoutError: It stopped in the middle of a message.
        """
        try:
            ready = wait([self._connection, wake], timeout_s)
            if self._connection in ready:
                message: dict[str, Any] = json.loads(self._connection.recv_bytes())
                return message
        except BlockingIOError as error:
            raise TimeoutError("it stopped in the middle of a message") from error
        except OSError as error:
            raise EOFError from error
        if not ready and self._process.poll() is not None:
            raise EOFError  # its end of the pipe lives on in a process that was forked while it was started
        return None

    def end(self, *, kill: bool = False) -> str:
        """Wait for the worker's end, briefly, then kill it; says how it ended and what it wrote to stderr."""
        how = end_process(self._process, 0.0 if kill else _EXIT_WAIT_S)
        said = last_words(read_all(self._stderr).decode(errors="replace"))
        self.close_descriptors()
        return f"{how}{'; it said: ' + said if said else ''}"

    def close_descriptors(self) -> None:
        """Close this process's ends; also in a forked child, which must not keep the pipe open."""
        self._connection.close()
        self._handover.close()
        if self._stderr >= 0:
            os.close(self._stderr)
            self._stderr = -1


def _bound(connection: Connection) -> None:
    """Have reads and writes end with an error after `_MESSAGE_WAIT_S`."""
    limit = struct.pack("ll", int(_MESSAGE_WAIT_S), int(_MESSAGE_WAIT_S % 1 * 1e6))
    with socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


def end_process(process: "subprocess.Popen[bytes]", patience_s: float) -> str:
    """Wait for a process, then kill it; says how it ended. A SIGKILL that is not ours is often the kernel's."""
    try:
        return _describe_exit(process.wait(patience_s))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return "ended by this program"


def _describe_exit(status: int) -> str:
    if status >= 0:
        return f"exit code {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:  # a real-time signal
        name = f"signal {-status}"
    return f"killed by {name}" + (", often out of memory" if name == "SIGKILL" else "")


def last_words(text: str) -> str:
    """What a process wrote last, from the beginning of a line: the exception first, then what led to it."""
    lines = text.strip().splitlines()
    number = next((n for n in reversed(range(len(lines))) if _EXCEPTION.match(lines[n])), len(lines) - 1)
    said, rest = lines[number:], lines[:number]
    while rest and sum(map(len, rest)) > _STDERR_CHARACTERS:
        del rest[0]
    return "\n".join([*said, *rest])
