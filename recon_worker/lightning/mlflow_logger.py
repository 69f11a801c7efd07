"""`QueuedMLFlowLogger`: Lightning's MLflow logger with a background thread that sends the metrics.

    training thread: log_metrics -> bounded queue -> sender thread -> MLflow, retried until it succeeds

Lightning's logger sends metrics from the training thread: a slow server slows training down, an unreachable one stops
it. Creating the run and sending the settings remain synchronous, so that errors appear before training starts.
"""

import queue
import re
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tenacity
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only
from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag

from recon_worker.system.databases import with_absolute_path
from recon_worker.system.errors import reason
from recon_worker.system.messages import message_log
from recon_worker.upload.mlflow_client import without_mlflow_tracebacks

_log = message_log(__name__)

_QUEUE_LENGTH = 10_000
"""Maximum number of queued calls; at one per step, enough for hours without a server."""
_FIRST_WAIT_S, _LONGEST_WAIT_S, _HURRIED_WAIT_S = 0.5, 15.0, 0.2
_FORBIDDEN = re.compile(r"[^a-zA-Z0-9_/. -]+")
"""Characters that MLflow rejects in metric names."""
_NAME_CHARACTERS = 250
"""MLflow's limit for the length of a metric's name."""
_ALLOWED = "Allowed: numbers, under names of letters, digits, _ / . - and spaces."
_TAG_CHARACTERS = 5000
"""MLflow's limit for the length of a tag."""
_NO_SERVER = "http://localhost"
"""URI of the unused client that Lightning's logger creates on every rank; it opens no connection."""
_FINALIZE_S = 30.0
_FINALIZE_WITHOUT_SERVER_S = 2.0
_LAST_CALL_S = 0.5


class QueuedMLFlowLogger(MLFlowLogger):
    """`MLFlowLogger` that sends metrics and the run's final status from a background thread.

    Args:
        tracking_uri: MLflow server or database.
        finish_timeout_s: Time after the last metrics until `finalize` stops waiting for the server, at least 2 s and at
            most 30 s from its call. Pass the flush timeout of the reconstructions, so that both end together.
        **settings: Arguments of MLFlowLogger.
    """

    def __init__(self, *, tracking_uri: str, finish_timeout_s: float = _FINALIZE_S, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(tracking_uri=_NO_SERVER, **settings)
        self._tracking_uri = with_absolute_path(tracking_uri)
        self._finish_timeout_s = finish_timeout_s
        self._forget()

    def _forget(self) -> None:
        """Reset connection, queue and thread, in a new logger or in a copy in another process."""
        self._client: MlflowClient | None = None
        self._initialized = False
        self._calls: queue.Queue[Callable[[], None]] = queue.Queue(_QUEUE_LENGTH)
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self._hurry = threading.Event()
        self._error: BaseException | None = None
        self._refused: set[str] = set()
        self._last_metrics_s = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle settings and run, but not connection, queue and thread, which belong to one process (`ddp_spawn`)."""
        own = {"_client", "_mlflow_client", "_calls", "_thread", "_stopped", "_hurry"}
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore settings and run with a new queue; see `__getstate__`."""
        self.__dict__.update(state)
        self._forget()

    @property
    @rank_zero_experiment
    def experiment(self) -> MlflowClient:
        """MLflow client, connected on first use and on rank zero only.

        Concurrent ranks would collide while creating the tables of a new database.
        """
        if self._client is None:
            self._client = self._mlflow_client = MlflowClient(self._tracking_uri)
        client: MlflowClient = super().experiment
        return client

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Send the settings synchronously, before training starts, as tags (docs/decisions/0013)."""
        values = vars(params) if isinstance(params, Namespace) else params or {}
        tags = [RunTag(name, str(value)[:_TAG_CHARACTERS]) for name, value in _flat(values)]
        self.experiment.log_batch(str(self.run_id), tags=tags, synchronous=True)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Queue the metrics and return immediately. A full queue drops the oldest ones."""
        self._last_metrics_s = time.monotonic()
        batch = list(self._loggable(metrics, int(step or 0)))
        self._enqueue(lambda: self.experiment.log_batch(str(self.run_id), metrics=batch, synchronous=True))

    def _loggable(self, metrics: Mapping[str, float | str], step: int) -> Iterator[Metric]:
        """Yield metrics with the current time, by which MLflow recognises duplicates after a lost response.

        Metrics that MLflow would always refuse, which would hold up all others, are skipped, with one warning each.
        """
        now_ms = int(time.time() * 1000)
        for name, value in metrics.items():
            key = _key(f"{self._prefix}-{name}" if self._prefix else name)
            if key and not isinstance(value, str):
                yield Metric(key, float(value), now_ms, step)
            elif name not in self._refused:
                self._refused.add(name)
                _log.warning("Metric %r, %r, is not logged. %s", name, value, _ALLOWED)

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """Send the remaining metrics and the run's status; waits only briefly for an unresponsive server."""
        self._enqueue(lambda: super(QueuedMLFlowLogger, self).finalize(status))
        self._enqueue(self._stopped.set)
        self._hurry.set()  # retry soon: the server may be back, and the longest wait is 15 s
        self._stopped.wait(self._patience_s())
        if not self._stopped.is_set():
            batches = self._calls.qsize() - 1  # queued: status and end too, but not the batch that is being sent
            what = (
                f"{batches} batch{'' if batches == 1 else 'es'} of metrics and the run's status"
                if batches > 0
                else "the run's status"
            )
            why = f"{reason(self._error)}." if self._error else "The MLflow server does not answer."
            _log.warning("Not sent to MLflow: %s. %s", what, why)
            self._stopped.set()
        if self._thread is not None:
            self._thread.join(_LAST_CALL_S)
        self._thread, self._stopped, self._hurry = None, threading.Event(), threading.Event()

    def _patience_s(self) -> float:
        """Return how long `finalize` waits, seconds; the minimum if the last attempt failed."""
        left_s = self._last_metrics_s + self._finish_timeout_s - time.monotonic()
        return _FINALIZE_WITHOUT_SERVER_S if self._error else min(_FINALIZE_S, max(_FINALIZE_WITHOUT_SERVER_S, left_s))

    def _enqueue(self, call: Callable[[], None]) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._send, args=(self._stopped,), name="mlflow-metrics", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the limit of threads is reached: the next call tries again
                self._note("Metrics cannot be sent to MLflow now; they are kept.", error)
            else:
                self._thread = thread
        while True:
            try:
                self._calls.put_nowait(call)
            except queue.Full:
                self._calls.get_nowait()
            else:
                return

    def _send(self, stopped: threading.Event) -> None:
        retrying = tenacity.Retrying(
            wait=tenacity.wait_random_exponential(multiplier=_FIRST_WAIT_S, max=_LONGEST_WAIT_S),
            stop=tenacity.stop_when_event_set(stopped),
            sleep=self._sleep,
            before_sleep=self._report,
        )
        while not stopped.is_set():
            try:
                with without_mlflow_tracebacks():
                    retrying(self._calls.get())
            except tenacity.RetryError:
                return
            self._error = None

    def _sleep(self, seconds: float) -> None:
        """Wait before the next attempt; only briefly after `finalize` was called."""
        if self._hurry.wait(seconds):
            self._stopped.wait(_HURRIED_WAIT_S)

    def _report(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        assert error is not None
        self._note("The MLflow server did not accept metrics; they will be sent again.", error)

    def _note(self, what: str, error: BaseException) -> None:
        """Record why metrics are not sent; log it unless an earlier error still prevents sending."""
        if self._error is None:
            _log.warning("%s %s", what, reason(error))
        self._error = error


def _key(name: str) -> str:
    """Return the name of a metric as MLflow accepts it; empty if nothing is left."""
    parts = _FORBIDDEN.sub("", name).split("/")
    return "/".join(part for part in parts if part.strip("."))[:_NAME_CHARACTERS]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of nested settings, such as training/nepochs."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value
