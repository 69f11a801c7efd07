"""One worker process, seen from the training process: start it, talk to it, end it.

The child is `python -m recon_worker.worker` with inherited descriptors. It does not import the user's `__main__`, sees
no GPU, has a session of its own, and dies with nothing of the training process's.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from recon_worker.slots import create_memory, read_all

_STDERR_CHARACTERS = 600
_EXIT_WAIT_S = 2.0
_DEFAULTS = {
    "MALLOC_ARENA_MAX": "1",  # glibc gives memory back to the system when it is free, not when the process ends
    "MALLOC_MMAP_THRESHOLD_": str(2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**20),
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
_OVERRIDES = {
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # once, to wait as long as Retry-After says; the uploader does the rest
}


class WorkerProcess:
    """A running worker.

    Args:
        scan: Descriptor of the scan's memory.
        slots: Descriptors of the slots.

    Raises:
        OSError: The process cannot be started.
    """

    def __init__(self, scan: int, slots: Sequence[int]) -> None:
        self._connection, child_end = Pipe()
        self._stderr = create_memory("recon-log-stderr")
        command = [sys.executable, "-P", "-m", "recon_worker.worker", *map(str, (child_end.fileno(), scan, *slots))]
        try:
            self._process = subprocess.Popen(
                command,
                env=_environment(os.environ),
                pass_fds=(child_end.fileno(), scan, *slots),
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

    @property
    def pid(self) -> int:
        """Of the worker."""
        return self._process.pid

    def send(self, message: Mapping[str, Any]) -> None:
        """Tell the worker. A dead one is noticed by `receive`."""
        with contextlib.suppress(OSError):
            self._connection.send_bytes(json.dumps(message).encode())

    def receive(self, timeout_s: float) -> dict[str, Any] | None:
        """The next message, or None; EOFError when the worker is dead."""
        try:
            if not self._connection.poll(timeout_s):
                return None
            message: dict[str, Any] = json.loads(self._connection.recv_bytes())
            return message
        except OSError as error:
            raise EOFError from error

    def end(self, *, kill: bool = False) -> str:
        """Wait for the worker's end, briefly, then kill it; says how it ended and what it wrote to stderr."""
        if kill:
            self._process.kill()
        try:
            status = self._process.wait(_EXIT_WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        said = read_all(self._stderr)[-_STDERR_CHARACTERS:].decode(errors="replace").strip()
        self.close_descriptors()
        return f"{describe_exit(status)}{'; it said: ' + said if said else ''}"

    def close_descriptors(self) -> None:
        """Close this process's ends; also in a forked child, which must not keep the pipe open."""
        self._connection.close()
        if self._stderr >= 0:
            os.close(self._stderr)
            self._stderr = -1


def describe_exit(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"exit code {status}"
    name = signal.Signals(-status).name
    return f"killed by {name}" + (", often out of memory" if name == "SIGKILL" else "")


def _environment(parent: Mapping[str, str]) -> dict[str, str]:
    """The parent's environment, with one thread, no GPU, and this package importable."""
    package = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join([package, *filter(None, [parent.get("PYTHONPATH")])])
    return {**_DEFAULTS, **parent, **_OVERRIDES, "PYTHONPATH": path}
