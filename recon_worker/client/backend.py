"""How the training side hands snapshots over: `ReconBackend`, and `InlineBackend`, which does the work at once."""

import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol

from recon_worker.client.ledger import Ledger
from recon_worker.pictures.artifacts import finish, render
from recon_worker.pictures.history import History
from recon_worker.snapshot.artifact import Artifact, Failure
from recon_worker.snapshot.records import Scan, Snapshot, SnapshotArrays, SnapshotLayout
from recon_worker.spool.outbox import RunTarget, Version, version_of
from recon_worker.system.messages import message_log
from recon_worker.system.reasons import reason
from recon_worker.upload.mlflow_sink import MlflowSink
from recon_worker.upload.resume import earlier_history

_log = message_log(__name__)


class ReconBackend(Protocol):
    """Takes snapshots of one run, in order."""

    @property
    def stats(self) -> Ledger:
        """What became of the snapshots so far."""

    def launch(self) -> None:
        """Begin whatever takes time to begin. Called as early as possible; does not wait."""

    def start(self, target: RunTarget, scan: Scan, layout: SnapshotLayout) -> None:
        """Say which run it is, what stays the same during it, and how large its snapshots are. Called once."""

    def acquire(self, layout: SnapshotLayout) -> SnapshotArrays:
        """Arrays to write the next snapshot into. Valid until it is submitted.

        Raises:
            OSError: There is no room for them. The snapshot counts as failed.
        """

    @property
    def reuses_memory(self) -> bool:
        """Whether later snapshots will lie in the memory that was acquired last: it pays to page-lock it."""

    def submit(self, snapshot: Snapshot) -> None:
        """Hand over a snapshot whose arrays came from `acquire`."""

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was submitted is logged; False when the time is over first."""

    def close(self, timeout_s: float) -> None:
        """Flush and release everything. May be called twice."""

    def summary(self) -> str:
        """One line about what became of the snapshots."""


class InlineBackend:
    """Stitches, renders and uploads within `submit`, on the caller's thread. Reuses one set of arrays."""

    def __init__(self) -> None:
        self.stats = Ledger()
        self.reuses_memory = True
        self._sink: MlflowSink | None = None
        self._scan: Scan | None = None
        self._history = History()
        self._layout: SnapshotLayout | None = None
        self._arrays: SnapshotArrays | None = None

    def launch(self) -> None:
        """See `ReconBackend`."""

    def start(self, target: RunTarget, scan: Scan, layout: SnapshotLayout) -> None:
        """See `ReconBackend`."""
        self._sink, self._scan = MlflowSink(target), scan
        self._history = earlier_history(target)

    def acquire(self, layout: SnapshotLayout) -> SnapshotArrays:
        """See `ReconBackend`."""
        if self._arrays is None or layout != self._layout:
            self._layout, self._arrays = layout, layout.allocate()
        self._arrays.fixed_filled[:] = False
        self._arrays.stitch_filled[:] = False
        return self._arrays

    def submit(self, snapshot: Snapshot) -> None:
        """See `ReconBackend`; returns when the artifacts are uploaded or counted as failed."""
        if self._scan is None:
            raise RuntimeError("submit was called before start; start the backend with the run's Scan first.")
        self.stats.submitted += 1
        failures = self._log_all(render(self._scan, snapshot, self._history))
        if failures:
            self.stats.failed += 1
            _log.warning(
                "Epoch %d: %d artifacts could not be logged, the first being %s: %s",
                snapshot.epoch, len(failures), failures[0].path, failures[0].reason,
            )  # fmt: skip
        else:
            self.stats.logged += 1

    def _log_all(self, everything: Iterator[Artifact | Failure]) -> list[Failure]:
        """Upload until the tracker fails once: each further try could block for minutes."""
        failures: list[Failure] = []
        sent: dict[str, Version] = {}
        tracker_error = ""
        try:
            for made in everything:
                if isinstance(made, Artifact) and not tracker_error:
                    tracker_error = self._upload_error(made, sent)
                if isinstance(made, Failure) or tracker_error:
                    failures.append(made if isinstance(made, Failure) else Failure(made.path, tracker_error))
            failures += self._lost(sent)
        except Exception as error:  # the machine is short of something, and there is no place to keep the snapshot
            failures.append(Failure("the rest", f"{type(error).__name__}: {error}"))
        self.stats.artifacts_failed += len(failures)
        return failures

    def _upload_error(self, artifact: Artifact, sent: dict[str, Version]) -> str:
        assert self._sink is not None
        try:
            with tempfile.TemporaryDirectory(prefix="recon-log-") as folder:
                local = Path(folder, PurePosixPath(artifact.path).name)
                local.write_bytes(artifact.data)
                self._sink.upload(local, artifact.path)
                sent[artifact.path] = version_of(local)
        except Exception as error:  # whatever the tracker does, the training goes on
            return reason(error)
        self.stats.artifacts_logged += 1
        return ""

    def _lost(self, sent: dict[str, Version]) -> list[Failure]:
        """What was acknowledged and is not there; or cannot be looked for, as the tracker has gone."""
        assert self._sink is not None
        try:
            lost = dict.fromkeys(self._sink.missing(sent), "it was acknowledged, and is not there")
        except Exception as error:
            lost = dict.fromkeys(sent, reason(error))
        self.stats.artifacts_logged -= len(lost)
        return [Failure(name, why) for name, why in lost.items()]

    def flush(self, timeout_s: float) -> bool:
        """See `ReconBackend`; nothing is ever left over."""
        return True

    def close(self, timeout_s: float) -> None:
        """See `ReconBackend`; the animation is logged now."""
        if self._scan is not None:
            for failure in self._log_all(finish(self._history)):
                _log.warning("%s could not be logged: %s", failure.path, failure.reason)
        self._arrays = self._layout = self._scan = None

    def summary(self) -> str:
        """See `ReconBackend`."""
        return f"Reconstructions: {self.stats}."
