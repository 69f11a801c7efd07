"""`InlineBackend`: the backend without a worker. Renders and uploads each snapshot on the training thread."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from recon_worker.client.ledger import Ledger
from recon_worker.pictures.artifacts import finish, reference, render
from recon_worker.pictures.history import History
from recon_worker.pictures.records import noting_metrics
from recon_worker.snapshot.artifact import Artifact, Failure
from recon_worker.snapshot.records import Scan, Snapshot, SnapshotArrays, SnapshotLayout
from recon_worker.spool.outbox import Version, version_of
from recon_worker.spool.run_target import RunTarget
from recon_worker.system.errors import reason
from recon_worker.system.handler_errors import raise_if_from_signal_handler
from recon_worker.system.messages import message_log, show_messages
from recon_worker.upload.errors import UploadError
from recon_worker.upload.mlflow_sink import MlflowSink
from recon_worker.upload.resume import earlier_history

_log = message_log(__name__)


class InlineBackend:
    """Stitches, renders and uploads within `submit`, on the caller's thread. Reuses one set of arrays."""

    def __init__(self) -> None:
        show_messages("recon_worker")
        self.stats = Ledger()
        self.reuses_memory = True
        self._sink: MlflowSink | None = None
        self._scan: Scan | None = None
        self._history = History()
        self._layout: SnapshotLayout | None = None
        self._arrays: SnapshotArrays | None = None

    def launch(self) -> None:
        """Do nothing: this backend needs no initialisation."""

    def start(self, target: RunTarget, scan: Scan, layout: SnapshotLayout) -> None:
        """Set the run, read the history of the run that it continues, if any, and log the reference if requested."""
        self._sink, self._scan = MlflowSink(target), scan
        self._history = earlier_history(target)
        self.stats.metrics |= self._history.metrics()
        if scan.reference:
            self._log_all("Step 0", reference(scan))

    def acquire(self, layout: SnapshotLayout) -> SnapshotArrays:
        """Return arrays for the next snapshot, the same ones each time."""
        if self._arrays is None or layout != self._layout:
            self._layout, self._arrays = layout, layout.allocate()
        self._arrays.mark_unfilled()
        return self._arrays

    def submit(self, snapshot: Snapshot) -> None:
        """Render and upload a snapshot. Returns when each artifact is uploaded or counted as failed.

        Raises:
            RuntimeError: The backend has not been started.
        """
        if self._scan is None:
            raise RuntimeError("submit was called before start; start the backend with the run's Scan first.")
        self.stats.submitted += 1
        began_s, report = time.monotonic(), dict[str, Any](metrics={}, alert="")
        artifacts = noting_metrics(render(self._scan, snapshot, self._history), report)
        try:
            complete = self._log_all(f"Epoch {snapshot.epoch}", artifacts)
        except BaseException:
            self.stats.failed += 1
            raise
        self.stats.add_rendered(snapshot.epoch, report)
        if complete:
            self.stats.logged += 1
            took_s = time.monotonic() - began_s
            _log.info("%s", self.stats.add_logged(snapshot.epoch, took_s))
        else:
            self.stats.failed += 1
            self._history.publish_again()

    def _log_all(self, what: str, artifacts: Iterator[Artifact | Failure]) -> bool:
        """Upload artifacts; log a warning, and return False, if some could not be logged."""
        failures = self._failures(artifacts)
        if failures:
            count = f"{len(failures)} artifact{'' if len(failures) == 1 else 's'}"
            _log.warning(
                "%s: %s could not be logged, the first being %s: %s", what, count, failures[0].path, failures[0].reason
            )
        return not failures

    def _failures(self, artifacts: Iterator[Artifact | Failure]) -> list[Failure]:
        """Upload artifacts until the first tracker error, as each further attempt could block; returns the failures."""
        assert self._sink is not None
        failures: list[Failure] = []
        sent: dict[str, Version] = {}
        tracker_error = ""
        try:
            for made in artifacts:
                if isinstance(made, Artifact) and not tracker_error:
                    tracker_error = self._upload_error(made, sent)
                if isinstance(made, Failure) or tracker_error:
                    failures.append(made if isinstance(made, Failure) else Failure(made.path, tracker_error))
            try:
                lost = dict.fromkeys(self._sink.missing(sent), "the server acknowledged it but does not have it")
            except Exception as error:  # the tracker does not answer
                raise_if_from_signal_handler(error)
                lost = dict.fromkeys(sent, reason(error))
            self.stats.artifacts_logged -= len(lost)
            failures += [Failure(name, why) for name, why in lost.items()]
        except Exception as error:  # out of memory or disk space; without a spool the snapshot cannot be retried
            raise_if_from_signal_handler(error)
            failures.append(Failure("the rest", f"{type(error).__name__}: {error}"))
        self.stats.artifacts_failed += len(failures)
        return failures

    def _upload_error(self, artifact: Artifact, sent: dict[str, Version]) -> str:
        """Upload one artifact and note its version in `sent`. Returns the error; empty on success."""
        assert self._sink is not None
        try:
            with tempfile.TemporaryDirectory(prefix="recon-log-") as folder:
                local = Path(folder, PurePosixPath(artifact.path).name)
                local.write_bytes(artifact.data)
                self._sink.upload(local, artifact.path)
                sent[artifact.path] = version_of(local)
        except Exception as error:  # tracker errors must not stop training
            raise_if_from_signal_handler(error)
            return str(error) if isinstance(error, UploadError) else reason(error)
        self.stats.artifacts_logged += 1
        return ""

    def awaits(self, epoch: int) -> bool:
        """Return False: `submit` renders."""
        return False

    def settled(self, epoch: int, timeout_s: float = 0.0) -> bool:
        """Return True: `submit` computes the metrics."""
        return True

    def close(self, timeout_s: float) -> None:
        """Log the artifacts of the whole run, such as the animation, and release the arrays."""
        if self._scan is not None:
            self._log_all("The end of the run", finish(self._history))
        self._arrays = self._layout = self._scan = None

    def summary(self) -> str:
        """Return a one-line summary of snapshot outcomes."""
        return f"Reconstructions: {self.stats}. {self.stats.best()}".rstrip()
