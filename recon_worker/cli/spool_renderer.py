"""Renders the snapshots of a spool in a process of its own: one that crashes it costs that process, not the sync.

    SpoolRenderer  -> stdin:  which spool, then one snapshot at a time, then the end  -> main()  -> outbox
                   <- stdout: after each, which pictures could not be made, or why nothing can be done

Messages are lines of JSON. The process holds the spool's lock beside the sync that started it, and goes at once when
its stdin ends, which is when that sync is over or dead.
"""

import json
import os
import queue
import subprocess
import sys
import threading
from dataclasses import asdict
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NoReturn

from recon_worker.cli.status import pictures
from recon_worker.cli.stderr_log import log_on_stderr
from recon_worker.client.process import end_process
from recon_worker.pictures.artifacts import finish
from recon_worker.pictures.history import History
from recon_worker.snapshot.artifact import Artifact, Failure
from recon_worker.snapshot.records import Scan
from recon_worker.spool.outbox import Outbox, RunTarget, SpoolError
from recon_worker.system.child_environment import child_command, child_environment
from recon_worker.system.shortages import is_shortage
from recon_worker.upload.resume import load_history

_EXIT_WAIT_S = 2.0
_SILENCE_S = 600.0
"""One snapshot takes less; a process that needs longer hangs."""

Message = dict[str, Any]


class CrashError(RuntimeError):
    """The process died. The message says how."""


class ShortageError(RuntimeError):
    """The machine is short of something (`shortages`); the message says of what. It may help to try again."""


class SpoolRenderer:
    """The process, seen from the sync; a new one is started after a crash.

    Args:
        outbox: The run's spool.
        target: The run.
        lock: Descriptor of the spool's lock.
    """

    def __init__(self, outbox: Outbox, target: RunTarget, lock: int) -> None:
        self._spool: Message = {"folder": str(outbox.folder), "target": asdict(target)}
        self._spool["descriptor"] = outbox.descriptor
        self._inherited = lock, outbox.descriptor
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "SpoolRenderer":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._end()

    def render(self, raw: Path) -> list[Failure]:
        """Render a snapshot into the outbox; returns what could not be made.

        Raises:
            CrashError: The process died over it.
            ShortageError: It cannot be rendered now.
            SpoolError: No snapshot of this spool can be rendered now.
        """
        return self._ask({"raw": str(raw)})

    def finish(self, taken_unix_s: float) -> list[Failure]:
        """Make what is made when no more snapshots come. Raises like `render`.

        Args:
            taken_unix_s: When the last snapshot was taken.
        """
        return self._ask({"finish": taken_unix_s})

    def _ask(self, message: Message) -> list[Failure]:
        if self._process is None:
            self._start()
        return self._tell(message)

    def _start(self) -> None:
        """A process that knows the spool. It is no snapshot's fault if there is none."""
        self._process = subprocess.Popen(
            child_command("recon_worker.cli.spool_renderer"),
            bufsize=0,
            env=child_environment(os.environ, sys.path),
            pass_fds=self._inherited,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the sync, which then ends this
        )
        try:
            self._tell(self._spool)
        except (CrashError, ShortageError) as error:
            raise SpoolError(f"{self._spool['folder']}: the process that renders cannot start ({error}).") from error

    def _tell(self, message: Message) -> list[Failure]:
        """Send a message and wait for the answer."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            raise CrashError(self._end()) from None
        if not wait([self._process.stdout.fileno()], _SILENCE_S):
            raise CrashError(f"it said nothing for {_SILENCE_S:.0f} s: {self._end(patience_s=0.0)}")
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise CrashError(self._end())
        answer = json.loads(line)
        if "short" in answer:
            raise ShortageError(answer["short"])
        if "error" in answer:
            raise SpoolError(answer["error"])
        return [Failure(*one) for one in answer["failures"]]

    def _end(self, patience_s: float = _EXIT_WAIT_S) -> str:
        """Have the process go, if there is one; says how it ended."""
        process, self._process = self._process, None
        if process is None:
            return ""
        with process:  # closes the pipes
            assert process.stdin is not None
            process.stdin.close()
            return end_process(process, patience_s)


# --- the process itself --------------------------------------------------------------------------------------------


class _Renderer:
    """Does what the messages say."""

    def __init__(self) -> None:
        self._outbox: Outbox | None = None
        self._scan: Scan | None = None
        self._history = History()

    def answer(self, message: Message) -> Message:
        """Do what a message says."""
        try:
            if self._outbox is None:
                self._outbox = self._open(message)
                return {"failures": []}
            return {"failures": [[one.path, one.reason] for one in self._make(self._outbox, message)]}
        except Exception as error:
            if is_shortage(error):
                return {"short": f"{type(error).__name__}: {error}"}
            if isinstance(error, SpoolError | OSError):
                return {"error": str(error)}
            raise

    def _open(self, message: Message) -> Outbox:
        outbox = Outbox(Path(message["folder"]), create=False, descriptor=message["descriptor"])
        target = RunTarget(**message["target"])
        self._scan = outbox.scan()
        outbox.take_scratch()
        self._history = load_history(outbox, target)
        return outbox

    def _make(self, outbox: Outbox, message: Message) -> list[Failure]:
        """Render the snapshot that is named, or what comes last."""
        assert self._scan is not None
        if "raw" in message:
            raw = outbox.held(Path(message["raw"]))
            made, taken_unix_s = pictures(self._scan, raw, self._history), raw.stat().st_mtime
        else:
            made, taken_unix_s = list(finish(self._history)), message["finish"]
        try:
            for one in made:
                if isinstance(one, Artifact):
                    outbox.put(one, taken_unix_s)
        except OSError:
            self._history.publish_again()
            raise
        outbox.keep_history(self._history.files())
        return [one for one in made if isinstance(one, Failure)]


def main() -> NoReturn:
    """Entry point of the process."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(messages,), daemon=True).start()
    renderer = _Renderer()
    with log_on_stderr():
        while True:
            print(json.dumps(renderer.answer(messages.get())), file=answers, flush=True)


def _listen(messages: "queue.SimpleQueue[Message]") -> None:
    for line in sys.stdin:
        messages.put(json.loads(line))
    os._exit(0)  # in the middle of whatever it is: files appear by rename, and the sync alone removes snapshots
