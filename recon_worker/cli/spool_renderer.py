"""Renders the snapshots of a spool in a separate process, so that a crash does not end the sync.

    SpoolRenderer  -> stdin:  the spool, one snapshot at a time, the end of the run  -> main()  -> outbox
                   <- stdout: after each, the failures, or why nothing can be rendered

Messages are lines of JSON. The process shares the spool's lock with the sync that started it, and exits as soon
as its stdin closes, because the sync has then ended or died.
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

from recon_worker.cli.console import log_on_stderr
from recon_worker.cli.render import render_file
from recon_worker.client.process import end_process
from recon_worker.pictures.artifacts import finish, reference
from recon_worker.pictures.history import History
from recon_worker.snapshot.artifact import Artifact, Failure
from recon_worker.snapshot.records import Scan
from recon_worker.spool.folder import SpoolError
from recon_worker.spool.outbox import Outbox
from recon_worker.spool.run_target import RunTarget
from recon_worker.system.child_environment import child_command, child_environment
from recon_worker.system.errors import is_shortage
from recon_worker.upload.resume import load_history

_EXIT_WAIT_S = 2.0
_SILENCE_S = 600.0
"""A process that takes longer for one snapshot counts as hung."""

Message = dict[str, Any]


class CrashError(RuntimeError):
    """The process died. The message describes how."""


class ShortageError(RuntimeError):
    """The machine lacks a resource (`errors.is_shortage`), named in the message. A retry may succeed."""


class SpoolRenderer:
    """Handle of the rendering process; starts a new process after a crash. Call `close` at the end.

    Args:
        outbox: The run's spool, locked.
        target: The run.
    """

    def __init__(self, outbox: Outbox, target: RunTarget) -> None:
        self._inherited = outbox.lock, outbox.descriptor
        self._spool = Message(folder=str(outbox.folder), descriptor=outbox.descriptor, target=asdict(target))
        self._process: subprocess.Popen[bytes] | None = None

    def render(self, raw: Path | None, taken_unix_s: float) -> list[Failure]:
        """Render a snapshot file or, if `raw` is None, the artifacts of the whole run; returns the failures.

        The result is written to the outbox. `taken_unix_s` is the time at which the snapshot, or the run's last one,
        was taken. Raises the same errors as `render_reference`.
        """
        return self._ask({"raw": raw and str(raw), "taken_unix_s": taken_unix_s})

    def render_reference(self) -> list[Failure]:
        """Render the reference pictures, unless they have been made, into the outbox; returns the failures.

        Raises:
            CrashError: The process died while rendering.
            ShortageError: The machine lacks a resource for it now.
            SpoolError: Nothing in this spool can be rendered now.
        """
        return self._ask({"reference": True})

    def _ask(self, message: Message) -> list[Failure]:
        """Send a message to the process, which is started if necessary; returns the failures that it answers.

        Raises the same errors as `render_reference`.
        """
        if self._process is None:
            self._process = subprocess.Popen(
                child_command("recon_worker.cli.spool_renderer"),
                bufsize=0,
                env=child_environment(os.environ, sys.path),
                pass_fds=self._inherited,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C reaches the sync only, which then ends this process
            )
            try:
                self._exchange(self._process, self._spool)
            except (CrashError, ShortageError) as error:  # no snapshot is the cause
                folder = self._spool["folder"]
                raise SpoolError(f"{folder}: the process that renders cannot start ({error}).") from error
        return self._exchange(self._process, message)

    def _exchange(self, process: "subprocess.Popen[bytes]", message: Message) -> list[Failure]:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            raise CrashError(self.close()) from None
        if not wait([process.stdout.fileno()], _SILENCE_S):
            raise CrashError(f"no answer within {_SILENCE_S:.0f} s: {self.close(patience_s=0.0)}")
        line = process.stdout.readline()
        if not line.endswith(b"\n"):
            raise CrashError(self.close())
        answer = json.loads(line)
        if "short" in answer:
            raise ShortageError(answer["short"])
        if "error" in answer:
            raise SpoolError(answer["error"])
        return [Failure(*one) for one in answer["failures"]]

    def close(self, patience_s: float = _EXIT_WAIT_S) -> str:
        """End the process, if any; returns how it ended."""
        process, self._process = self._process, None
        if process is None:
            return ""
        with process:  # closes the pipes
            assert process.stdin is not None
            process.stdin.close()
            return end_process(process, patience_s)


# --- rendering process ---------------------------------------------------------------------------------------------


def main() -> NoReturn:
    """Entry point of the process."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # library output must not mix with the answers
    messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(messages,), daemon=True).start()
    spool: tuple[Outbox, Scan, History] | None = None
    with log_on_stderr():
        while True:
            message, answer = messages.get(), Message(failures=[])
            try:
                if spool is None:
                    spool = _open(message)
                else:
                    answer["failures"] = [[one.path, one.reason] for one in _render(*spool, message)]
            except Exception as error:
                if is_shortage(error):
                    answer = {"short": f"{type(error).__name__}: {error}"}
                elif isinstance(error, SpoolError | OSError):
                    answer = {"error": str(error)}
                else:
                    raise
            print(json.dumps(answer), file=answers, flush=True)


def _open(message: Message) -> tuple[Outbox, Scan, History]:
    outbox = Outbox(Path(message["folder"]), create=False, descriptor=message["descriptor"])
    scan = outbox.scan()
    outbox.take_scratch()
    return outbox, scan, load_history(outbox, RunTarget(**message["target"]))


def _render(outbox: Outbox, scan: Scan, history: History, message: Message) -> list[Failure]:
    if "reference" in message:
        return _render_reference(outbox, scan)
    raw = message["raw"]
    made = list(finish(history)) if raw is None else render_file(scan, outbox.held(Path(raw)), history)
    try:
        for one in made:
            if isinstance(one, Artifact):
                outbox.put(one, message["taken_unix_s"])
    except OSError:
        history.publish_again()
        raise
    outbox.keep_history(history.files())
    failures = [one for one in made if isinstance(one, Failure)]
    if failures:
        history.publish_again()
    return failures


def _render_reference(outbox: Outbox, scan: Scan) -> list[Failure]:
    made = list(reference(scan)) if outbox.begin_reference() else []
    for one in made:
        if isinstance(one, Artifact):
            outbox.put(one)
    outbox.end_reference()
    return [one for one in made if isinstance(one, Failure)]


def _listen(messages: "queue.SimpleQueue[Message]") -> None:
    for line in sys.stdin:
        messages.put(json.loads(line))
    os._exit(0)  # safe at any point: files appear by rename, and only the sync removes snapshots
