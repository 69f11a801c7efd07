"""The worker process: renders snapshots out of shared slots into the outbox, while an uploader empties that.

    pipe: setup, reserve, job, file, retry, finish, stop ->  run()  -> outbox -> uploader threads -> MLflow
          <- ready, reserved, began, alive, rendered, finished, logged, refused, log

Started by `client.ReconWorker` as `python -m recon_worker.worker`, with its pipe and slots as inherited descriptors.
It ignores SIGINT and SIGTERM, which a whole process group gets: it obeys the pipe. When the pipe closes without
`stop` the training process is dead; then it writes what lies in the slots to the spool, renders and uploads what it
can within the flush timeout, and exits: `Watchdog` sees to that if it hangs. What it must know for that lies in shared
memory too: the training process may die before it has said anything.
All messages are JSON.
"""

import argparse
import contextlib
import functools
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from recon_worker.artifacts import Artifact, Failure, finish, render
from recon_worker.codec import CodecError, dump_snapshot, load_brief, parse_header, read_snapshot
from recon_worker.continuation import load_history
from recon_worker.deliveries import Numbers
from recon_worker.history import History
from recon_worker.outbox import Outbox, RunTarget, epoch_of
from recon_worker.raw_file import make_ready
from recon_worker.run_sink import RunSink, connect
from recon_worker.slots import Slot, SlotContent, read_all
from recon_worker.snapshot import Scan, Snapshot
from recon_worker.spool_lock import SpoolBusyError, is_alone, take_lock
from recon_worker.uploader import ArtifactSink, Uploader, upload_threads
from recon_worker.watchdog import Watchdog

_log = logging.getLogger(__name__)

_NICENESS = 10
_POLL_S = 0.1
_PARENT_POLL_S = 1.0
_OF_NO_SNAPSHOT = -1
"""Generation of artifacts that an earlier run left behind."""

Message = dict[str, Any]


class Sink(ArtifactSink, Protocol):
    """Where artifacts and numbers go."""

    def log_numbers(self, numbers: Numbers) -> None:
        """Log metrics of a step; raises when it fails. The same ones again change nothing."""


class Channel:
    """The worker's end of the pipe; may be used from several threads.

    Args:
        connection: The pipe.
        parent: Process id of the training process.
    """

    def __init__(self, connection: Connection, parent: int) -> None:
        self._connection = connection
        self._parent, self._lock = parent, threading.Lock()

    def send(self, **message: Any) -> None:  # noqa: ANN401
        """Tell the training process; quietly nothing if it is gone."""
        try:
            with self._lock:
                self._connection.send_bytes(json.dumps(message).encode())
        except OSError:
            pass

    def receive(self) -> Message:
        """The next message; waits for it. Raises EOFError when the training process is gone."""
        try:
            while not self._connection.poll(_PARENT_POLL_S):
                if os.getppid() != self._parent:
                    raise EOFError  # its end of the pipe lives on in a process that was forked meanwhile
            message: Message = json.loads(self._connection.recv_bytes())
            return message
        except OSError as error:
            raise EOFError from error


class Worker:
    """What the worker does with each message.

    Args:
        channel: The pipe.
        brief: Shared memory with what there is to know about the run (`codec.dump_brief`).
        slots: The queue's memory.
        make_sink: Makes what uploads; called before it is needed, so it should not connect yet.
        watchdog: Has the process end when the training process is dead.
    """

    def __init__(
        self,
        channel: Channel,
        brief: int,
        slots: list[Slot],
        make_sink: Callable[[RunTarget], Sink],
        watchdog: Watchdog,
    ) -> None:
        self._channel, self._brief, self._slots, self._make_sink = channel, brief, slots, make_sink
        self._watchdog, self._keeping = watchdog, threading.Lock()
        watchdog.keep = self._keep_slots
        self._scan: Scan | None = None
        self._history: History | None = None
        self._target: RunTarget | None = None
        self._outbox: Outbox | None = None
        self._uploader: Uploader | None = None
        self._sink: Sink | None = None
        self._lock = -1
        self._done: set[int] = set()
        self._last_taken_unix_s: float | None = None
        self._metrics: dict[int, tuple[dict[str, float], int, float]] = {}
        self._numbers: dict[int, Numbers] = {}

    def run(self) -> None:
        """Serve until `stop`, or, without the training process, until all is uploaded.

        The last is bounded by the flush timeout; what is left then stays in the outbox.
        """
        try:
            while (message := self._channel.receive())["do"] != "stop":
                self._handle(message)
        except EOFError:
            self._finish_alone(self._watchdog.orphaned())
        finally:
            if self._uploader is not None:
                self._uploader.stop()

    def _handle(self, message: Message) -> None:
        if message["do"] == "setup":
            self._set_up(message["unlogged"])
        elif message["do"] == "reserve":
            self._reserve(message["slots"], [Path(name) for name in message["files"]], message["nbytes"])
        elif message["do"] == "finish":
            assert self._uploader is not None
            made, failures = self._finish()
            self._channel.send(**{"is": "finished", "artifacts": len(made), "failures": failures})
            self._uploader.add(message["generation"], [*message["names"], *made])
        elif message["do"] == "retry":
            assert self._uploader is not None
            self._uploader.try_again()
        elif message["do"] == "job":
            self._remember(message)
            self._do_job(message["generation"], lambda: self._from_slot(message["slot"], message["generation"]))
        elif message["do"] == "file":
            self._remember(message)
            self._do_file(message["generation"], Path(message["path"]))

    def _reserve(self, slots: list[int], files: list[Path], nbytes: int) -> None:
        """Have the memory and the files of the queue ready before the first snapshot needs them."""
        for number in slots:
            self._slots[number].reserve(nbytes)
            self._slots[number].fault_in()
            self._say_alive()
        for file in files:
            with contextlib.suppress(OSError):  # whoever captures into it will say what is wrong
                make_ready(file, nbytes, self._say_alive)
        self._channel.send(**{"is": "reserved"})

    def _say_alive(self) -> None:
        self._channel.send(**{"is": "alive"})

    def _set_up(self, unlogged: dict[str, int]) -> None:
        brief, self._scan = load_brief(read_all(self._brief))
        target = self._target = RunTarget(**brief["target"])
        self._outbox, self._lock = self._open(Path(brief["folder"]))  # held until the process ends
        self._outbox.take_scratch()
        self._sink = self._make_sink(target)
        threads = upload_threads(target.tracking_uri)
        self._uploader = Uploader(self._outbox, self._sink, threads, self._on_uploaded, self._on_refused)
        self._upload_again(unlogged)

    def _open(self, folder: Path) -> tuple[Outbox, int]:
        """The spool and its lock. Where the training is dead already, a sync may have it first, and remove it.

        That is waited for; where it takes too long, a folder beside it keeps what lies in memory.
        """
        while True:
            try:
                outbox = Outbox(folder)
                return outbox, take_lock(folder, shared=True)
            except (SpoolBusyError, FileNotFoundError):
                if time.monotonic() > self._watchdog.deadline:
                    folder = folder.with_name(f"{folder.name}_2")
                time.sleep(_POLL_S)

    def _remember(self, message: Message) -> None:
        """Numbers about the queue, to be logged with the snapshot's last artifact."""
        self._metrics[message["generation"]] = (message["metrics"], message["step"], message["submitted_unix_s"])

    def _on_uploaded(self, generation: int) -> None:
        """All artifacts of a snapshot have arrived: log how the queue did, and say so."""
        assert self._sink is not None
        assert self._uploader is not None
        if generation in self._metrics:
            self._numbers[generation] = self._as_numbers(*self._metrics.pop(generation))
        if generation in self._numbers:  # unchanged when this is tried again: else MLflow would have them twice
            self._sink.log_numbers(self._numbers[generation])
            del self._numbers[generation]
        self._channel.send(**{"is": "logged", "generation": generation, "retries": self._uploader.retries})

    def _as_numbers(self, values: Mapping[str, float], step: int, submitted_unix_s: float) -> Numbers:
        assert self._uploader is not None
        now_s = time.time()
        values = {**values, "lag_s": now_s - submitted_unix_s, "retries": self._uploader.retries}
        return Numbers(step=step, time_ms=int(now_s * 1000), values={f"recon_log/{k}": v for k, v in values.items()})

    def _on_refused(self, refused: bool) -> None:
        self._channel.send(**{"is": "refused", "refused": refused})

    def _upload_again(self, unlogged: dict[str, int]) -> None:
        """Upload what an earlier worker rendered and did not; `unlogged`: epoch -> generation."""
        assert self._outbox is not None
        assert self._uploader is not None
        names: dict[int, list[str]] = {generation: [] for generation in unlogged.values()}
        last = max(unlogged.values(), default=_OF_NO_SNAPSHOT)
        for name in self._outbox.artifacts():
            names.setdefault(unlogged.get(str(epoch_of(name)), last), []).append(name)
        for generation, waiting in names.items():
            self._uploader.add(generation, waiting)

    def _from_slot(self, number: int, generation: int) -> Snapshot:
        content = self._slots[number].content()
        if content is None or content.generation != generation:
            raise CodecError(f"slot {number} does not hold snapshot {generation}.")
        record, layout = parse_header(content.header)
        return Snapshot(**record, arrays=self._slots[number].arrays(layout))

    def _do_file(self, generation: int, path: Path) -> None:
        """Render a snapshot from the spool; the training process then frees the file.

        One that could not be rendered whole is kept under another name.
        """
        assert self._outbox is not None
        if self._do_job(generation, lambda: read_snapshot(path)):
            self._outbox.set_aside(path)

    def _do_job(self, generation: int, load: Callable[[], Snapshot]) -> bool:
        """Render a snapshot into the outbox and hand its artifacts to the uploader; whether some could not be made.

        One that cannot be read stays where it is: it may be tried again.
        """
        assert self._uploader is not None
        self._channel.send(**{"is": "began"})
        times = {"started_unix_s": time.time(), "stitched_unix_s": 0.0}
        try:
            snapshot = load()
        except Exception as error:  # whatever is wrong with it
            self._tell_rendered(generation, 0, [_failure_of_all(error)], times, unread=True)
            return False
        names, failures = self._render(snapshot, times)
        self._done.add(generation)
        self._tell_rendered(generation, len(names), failures, times, unread=False)
        self._uploader.add(generation, names)
        return bool(failures)

    def _tell_rendered(
        self, generation: int, artifacts: int, failures: list[Failure], times: dict[str, float], *, unread: bool
    ) -> None:
        self._channel.send(
            **{"is": "rendered", "generation": generation, "artifacts": artifacts, "unread": unread},
            failures=[[f.path, f.reason] for f in failures],
            **times,
            rendered_unix_s=time.time(),
        )

    def _render(self, snapshot: Snapshot, times: dict[str, float]) -> tuple[list[str], list[Failure]]:
        """What was made of a snapshot, and what could not be; notes in `times` when it was stitched."""
        assert self._scan is not None

        def computed(what: str) -> None:
            self._say_alive()
            if what == "stitched":
                times["stitched_unix_s"] = time.time()

        names, failures = list[str](), list[Failure]()
        try:
            self._last_taken_unix_s = snapshot.created_unix_s
            for made in render(self._scan, snapshot, self._remembered(), computed):
                self._say_alive()
                failure = made if isinstance(made, Failure) else self._keep(made, snapshot.created_unix_s)
                if failure is not None:
                    failures.append(failure)
                elif isinstance(made, Artifact):
                    names.append(made.path)
            self._keep_history()
        except Exception as error:  # a snapshot that cannot be rendered must not cost the others
            failures.append(_failure_of_all(error))
        return names, failures

    def _remembered(self) -> History:
        """What earlier epochs left; read when it is first needed."""
        assert self._outbox is not None
        assert self._target is not None
        if self._history is None:
            self._history = load_history(self._outbox, self._target, functools.partial(connect, self._target))
        return self._history

    def _finish(self) -> tuple[list[str], int]:
        """Make what is made at the end; names of what is in the outbox now, and how many could not be made."""
        names, failures = list[str](), 0
        for made in finish(self._remembered()):
            failure = made if isinstance(made, Failure) else self._keep(made, self._last_taken_unix_s)
            if failure is not None:
                _log.warning("%s could not be made: %s", failure.path, failure.reason)
                failures += 1
            else:
                names.append(made.path)
        return names, failures

    def _keep_history(self) -> None:
        """For the worker that may come after this one; a full disk costs that one the colour ranges, not pictures."""
        assert self._outbox is not None
        try:
            self._outbox.keep_history(self._remembered().files())
        except OSError as error:
            _log.warning("%s/history cannot be written: %s", self._outbox.folder, error)

    def _keep(self, artifact: Artifact, taken_unix_s: float | None = None) -> Failure | None:
        assert self._outbox is not None
        try:
            self._outbox.put(artifact, taken_unix_s)
        except OSError as error:
            return Failure(artifact.path, f"{self._outbox.folder} cannot be written: {error}")
        except Exception as error:  # one picture must not cost the others
            return Failure(artifact.path, f"{type(error).__name__}: {error}")
        return None

    def _keep_slots(self) -> None:
        """The training process is dead: have what lies in the slots on disk, before anything else can go wrong.

        Called from the watchdog's thread, where this one may hang, and from this one, which may not be set up before.
        """
        with self._keeping:
            if self._outbox is None or self._target is None or self._scan is None:
                return
            if not (self._outbox.folder / "run.json").exists():  # a sync has removed the folder
                self._outbox.describe(self._target, self._scan)
            kept = {_generation(path) for path in self._outbox.raw()} | self._done
            for slot in self._slots:
                content = slot.content()
                if content is not None and content.generation not in kept:
                    self._keep_slot(slot, content)
            self._watchdog.kept()

    def _keep_slot(self, slot: Slot, content: SlotContent) -> None:
        assert self._outbox is not None
        with contextlib.suppress(OSError, CodecError):  # nobody is left to be told; it can be rendered all the same
            record, layout = parse_header(content.header)
            parts = dump_snapshot(content.header, slot.array_bytes(layout.nbytes))
            self._outbox.put_raw(content.generation, record["epoch"], parts)

    def _finish_alone(self, deadline: float) -> None:
        """The training process is dead: render what is ready and upload it, until the deadline (monotonic), and go."""
        if self._outbox is None and os.fstat(self._brief).st_size:
            self._set_up({})
        if self._outbox is None or self._uploader is None:
            return  # no training had begun
        self._keep_slots()
        on_disk = {_generation(path): path for path in self._outbox.raw()}
        in_memory = {c.generation: n for n, slot in enumerate(self._slots) if (c := slot.content()) is not None}
        for generation in sorted({*on_disk, *in_memory} - self._done):
            if time.monotonic() < deadline:
                self._do_alone(generation, on_disk.get(generation), in_memory.get(generation))
        for generation in on_disk.keys() & self._done:
            on_disk[generation].unlink(missing_ok=True)
        if self._done and time.monotonic() < deadline:
            self._uploader.add(_OF_NO_SNAPSHOT, self._finish()[0])
        self._uploader.try_again()
        while not (self._uploader.idle or self._uploader.refused) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        if is_alone(self._lock):  # a training that was resumed meanwhile uses the same folder
            self._outbox.sweep()
            self._outbox.discard()

    def _do_alone(self, generation: int, path: Path | None, slot: int | None) -> None:
        if path is not None:
            self._do_file(generation, path)
        elif slot is not None:  # it could not be written to disk
            self._do_job(generation, lambda: self._from_slot(slot, generation))


def _failure_of_all(error: Exception) -> Failure:
    return Failure("snapshot", f"{type(error).__name__}: {error}")


def _generation(raw: Path) -> int:
    return int(raw.name.split("_")[0])


class _PipeHandler(logging.Handler):
    """Log records go to the training process."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(logging.INFO)
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        self._channel.send(**{"is": "log", "level": record.levelno, "text": self.format(record)})


def main() -> int:
    """Entry point of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parser = argparse.ArgumentParser(description="Started by the training process; not meant to be called by hand.")
    parser.add_argument("parent", type=int)
    parser.add_argument("pipe", type=int)
    parser.add_argument("brief", type=int)
    parser.add_argument("linger_s", type=float)
    parser.add_argument("slots", type=int, nargs="+")
    arguments = parser.parse_args()
    watchdog = Watchdog(arguments.parent, arguments.linger_s)
    _step_back()
    _do_without("pandas", "pyarrow")
    _set_title()
    channel = Channel(Connection(arguments.pipe), arguments.parent)
    logging.getLogger().addHandler(_PipeHandler(channel))
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # the uploader says, once, that it tries again
    logging.getLogger("recon_worker.spool_lock").setLevel(logging.ERROR)  # the training process has said it
    _warm_up()
    channel.send(**{"is": "ready"})
    Worker(channel, arguments.brief, [Slot(d) for d in arguments.slots], RunSink, watchdog).run()
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)  # an upload that hangs, or mlflow's own threads, must not keep the process


def _step_back() -> None:
    """Leave the processors to the training. Linux may share them out by session first, where `nice` has no say."""
    os.nice(_NICENESS)
    group = Path("/proc/self/autogroup")
    if group.exists():
        with contextlib.suppress(OSError):  # a container may forbid it
            group.write_text(f"{_NICENESS}")


def _do_without(*packages: str) -> None:
    """Have imports of packages fail in this process: MLflow takes 80 MB for these two, which no upload needs."""
    for package in packages:
        sys.modules[package] = None  # type: ignore[assignment]


def _set_title() -> None:
    """Name the process in `ps` and `top`, where the system has a file for it."""
    title = Path("/proc/self/comm")
    if title.exists():
        title.write_text("recon-worker")


def _warm_up() -> None:
    """Import what the first snapshot needs while the training process is still loading its data."""
    import matplotlib  # noqa: F401

    from recon_worker.rendering import encode_png

    encode_png([[0.0]], value_range=(0, 1), colormap="gray", quantity="", unit="")


if __name__ == "__main__":
    sys.exit(main())
