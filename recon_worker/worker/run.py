"""One training run, seen from its worker: its spool, its server, and what has become of its snapshots.

do, do_file -> outbox -> uploader threads -> MLflow
rendered, logged, refused, aside, alive -> channel
"""

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from recon_worker.pictures.artifacts import finish, render
from recon_worker.pictures.history import History
from recon_worker.pictures.records import Metrics
from recon_worker.snapshot.artifact import Artifact, Failure
from recon_worker.snapshot.codec import load_brief, read_snapshot
from recon_worker.snapshot.records import Snapshot
from recon_worker.spool.lock import is_alone
from recon_worker.spool.outbox import Outbox, RunTarget, Version, epoch_of
from recon_worker.system.messages import message_log
from recon_worker.system.shortages import is_shortage
from recon_worker.upload.continuation import load_history
from recon_worker.upload.run_sink import connect
from recon_worker.upload.uploader import ArtifactSink, Uploader, upload_threads
from recon_worker.worker.channel import Channel, Message
from recon_worker.worker.priority import Pace

_log = message_log(__name__)

_OF_NO_SNAPSHOT = -1
"""Generation of artifacts that belong to none, or to one of an earlier run."""


class Sink(ArtifactSink, Protocol):
    """Where artifacts and numbers go."""

    def log_numbers(self, numbers: Metrics) -> None:
        """Log metrics of a step; raises when it fails. The same ones again change nothing."""


class _PacedSink:
    """Uploads at the worker's pace."""

    def __init__(self, sink: Sink, pace: Pace) -> None:
        self._sink, self._pace = sink, pace

    def upload(self, local: Path, name: str) -> None:
        """See `ArtifactSink`."""
        self._pace.run(lambda: self._sink.upload(local, name))

    def missing(self, sent: Mapping[str, Version]) -> set[str]:
        """See `ArtifactSink`."""
        return self._pace.run(lambda: self._sink.missing(sent))


class WorkerRun:
    """See above. Holds the spool, beside the training process, until this process ends.

    Args:
        brief: What there is to know about the run (`codec.dump_brief`).
        channel: The pipe.
        make_sink: Makes what uploads; it should not connect before it is used.
        pace: How the heavy work is done.
        folder: Descriptor of the spool's folder, of this object from now on; None: the folder is opened by its name.
    """

    def __init__(
        self,
        brief: bytes,
        channel: Channel,
        make_sink: Callable[[RunTarget], Sink],
        pace: Pace,
        folder: int | None = None,
    ) -> None:
        self._channel, self._pace = channel, pace
        record, self._scan = load_brief(brief)
        self._target = RunTarget(**record["target"])
        self.outbox = Outbox(Path(record["folder"]), descriptor=folder)
        self._lock = self.outbox.take_lock(shared=True)
        self.outbox.take_scratch()
        self._sink = make_sink(self._target)
        threads = upload_threads(self._target.tracking_uri)
        self.uploader = Uploader(
            self.outbox, _PacedSink(self._sink, pace), threads, self._on_uploaded, self._on_refused, self._on_aside
        )
        self.done: set[int] = set()
        """Generations of the snapshots that were rendered."""
        self.short: set[int] = set()
        """Generations of those that the machine was too short of something for, when last tried."""
        self._history: History | None = None
        self._last_taken_unix_s: float | None = None
        self._metrics: dict[int, tuple[dict[str, float], int, float]] = {}
        self._numbers: dict[int, Metrics] = {}

    def upload_again(self, unlogged: dict[str, int]) -> None:
        """Upload what an earlier worker rendered and did not; `unlogged`: epoch -> generation."""
        names: dict[int, list[str]] = {generation: [] for generation in unlogged.values()}
        last = max(unlogged.values(), default=_OF_NO_SNAPSHOT)
        for name in self.outbox.artifacts():
            names.setdefault(unlogged.get(str(epoch_of(name)), last), []).append(name)
        for generation, waiting in names.items():
            self.uploader.add(generation, waiting)

    def remember(self, message: Message) -> None:
        """Metrics about the queue, to be logged with the snapshot's last artifact."""
        self._metrics[message["generation"]] = (message["metrics"], message["step"], message["submitted_unix_s"])

    def do_file(self, generation: int, path: Path) -> None:
        """Render a snapshot from the spool; the training process then frees the file.

        One that could not be rendered whole is kept under another name, unless the machine is to blame.
        """
        if self.do(generation, lambda: read_snapshot(self.outbox.held(path))):
            try:
                self.outbox.set_aside(path)
            except OSError as error:
                _log.warning("%s cannot be kept under another name: %s", path, error)

    def do(self, generation: int, load: Callable[[], Snapshot]) -> bool:
        """Render a snapshot into the outbox and hand its artifacts to the uploader; whether some could not be made.

        One that cannot be read, or that the machine is to blame for, stays where it is: it may be tried again. What was
        made of the last is uploaded all the same, which may make room; it counts for nothing.
        """
        self._channel.send(**{"is": "began"})
        self.short.discard(generation)
        times = {"started_unix_s": time.time(), "stitched_unix_s": 0.0}
        try:
            snapshot = self._pace.run(load)
        except Exception as error:  # whatever is wrong with it
            self._tell_rendered(generation, 0, [_failure_of_all(error)], times, unread=True, short=is_shortage(error))
            return False
        names, failures, short = self._render(snapshot, times)
        self._tell_rendered(generation, len(names), failures, times, unread=False, short=short)
        if short:
            self.uploader.add(_OF_NO_SNAPSHOT, names)
            return False
        self.done.add(generation)
        self.uploader.add(generation, names)
        return bool(failures)

    def finish_for(self, generation: int, names: list[str]) -> None:
        """Make what is made when no more snapshots come, and upload it with `names`, which are in the outbox."""
        made, failures = self._finish()
        self._channel.send(**{"is": "finished", "artifacts": len(made), "failures": failures})
        self.uploader.add(generation, [*names, *made])

    def finish_alone(self) -> None:
        """The same, where nobody is left to be told."""
        self.uploader.add(_OF_NO_SNAPSHOT, self._finish()[0])

    def leave(self) -> None:
        """Remove the spool if nothing is in it, unless a training that was resumed meanwhile uses the same folder."""
        if is_alone(self._lock):
            self.outbox.sweep()
            self.outbox.discard()

    def _finish(self) -> tuple[list[str], int]:
        """Names of what is in the outbox now, and how many could not be made."""
        names, failures = list[str](), 0
        try:
            for made in self._made_by(finish(self._remembered())):
                failure = made if isinstance(made, Failure) else self._keep(made, self._last_taken_unix_s)
                if failure is not None:
                    _log.warning("%s could not be made: %s", failure.path, failure.reason)
                    failures += 1
                else:
                    names.append(made.path)
        except Exception as error:  # a shortage: what is made of all snapshots must not cost any of them
            _log.warning("What comes last could not be made: %s: %s", type(error).__name__, error)
            failures += 1
        return names, failures

    def _on_uploaded(self, generation: int) -> None:
        """All artifacts of a snapshot have arrived: log how the queue did, and say so."""
        if generation in self._metrics:
            self._numbers[generation] = self._as_numbers(*self._metrics.pop(generation))
        if generation in self._numbers:  # unchanged when this is tried again: else MLflow would have them twice
            self._sink.log_numbers(self._numbers[generation])
            del self._numbers[generation]
        self._channel.send(**{"is": "logged", "generation": generation, "retries": self.uploader.retries})

    def _as_numbers(self, values: Mapping[str, float], step: int, submitted_unix_s: float) -> Metrics:
        now_s = time.time()
        values = {**values, "lag_s": now_s - submitted_unix_s, "retries": self.uploader.retries}
        return Metrics(step=step, time_ms=int(now_s * 1000), values={f"recon_log/{k}": v for k, v in values.items()})

    def _on_refused(self, refused: bool) -> None:
        self._channel.send(**{"is": "refused", "refused": refused})

    def _on_aside(self, generation: int) -> None:
        self._channel.send(**{"is": "aside", "generation": generation})

    def _tell_rendered(
        self,
        generation: int,
        artifacts: int,
        failures: list[Failure],
        times: dict[str, float],
        *,
        unread: bool,
        short: bool,
    ) -> None:
        if short:
            self.short.add(generation)
        self._channel.send(
            **{"is": "rendered", "generation": generation, "artifacts": artifacts, "unread": unread, "short": short},
            failures=[[f.path, f.reason] for f in failures],
            **times,
            rendered_unix_s=time.time(),
        )

    def _render(self, snapshot: Snapshot, times: dict[str, float]) -> tuple[list[str], list[Failure], bool]:
        """What was made of a snapshot, what could not be, and whether the machine is to blame, which ends it at once.

        Notes in `times` when it was stitched.
        """

        def computed(what: str) -> None:
            self._channel.send(**{"is": "alive"})
            if what == "stitched":
                times["stitched_unix_s"] = time.time()

        names, failures = list[str](), list[Failure]()
        try:
            self._last_taken_unix_s = snapshot.created_unix_s
            for made in self._made_by(render(self._scan, snapshot, self._remembered(), computed)):
                self._channel.send(**{"is": "alive"})
                failure = made if isinstance(made, Failure) else self._keep(made, snapshot.created_unix_s)
                if failure is not None:
                    failures.append(failure)
                elif isinstance(made, Artifact):
                    names.append(made.path)
            self._pace.run(self._keep_history)
        except Exception as error:  # a snapshot that cannot be rendered must not cost the others
            failures.append(_failure_of_all(error))
            if is_shortage(error):
                if self._history is not None:
                    self._history.publish_again()
                return names, failures, True
        return names, failures, False

    def _made_by(self, pictures: Iterator[Artifact | Failure]) -> Iterator[Artifact | Failure]:
        """Each is made when its turn has come, at the pace of that moment."""
        while (made := self._pace.run(lambda: next(pictures, None))) is not None:
            yield made

    def _remembered(self) -> History:
        """What earlier epochs left; read when it is first needed."""
        if self._history is None:
            load = functools.partial(load_history, self.outbox, self._target, functools.partial(connect, self._target))
            self._history = self._pace.run(load)
        return self._history

    def _keep_history(self) -> None:
        """For the worker that may come after this one; a full disk costs that one the colour ranges, not pictures."""
        try:
            self.outbox.keep_history(self._remembered().files())
        except OSError as error:
            _log.warning("%s/history cannot be written: %s", self.outbox.folder, error)

    def _keep(self, artifact: Artifact, taken_unix_s: float | None = None) -> Failure | None:
        try:
            self.outbox.put(artifact, taken_unix_s)
        except Exception as error:  # one picture must not cost the others
            if is_shortage(error):
                raise
            if isinstance(error, OSError):
                return Failure(artifact.path, f"{self.outbox.folder} cannot be written: {error}")
            return Failure(artifact.path, f"{type(error).__name__}: {error}")
        return None


def _failure_of_all(error: Exception) -> Failure:
    return Failure("snapshot", f"{type(error).__name__}: {error}")
