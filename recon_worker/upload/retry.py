"""Decides whether and when a failed request to MLflow is retried.

| error of an upload | next attempt |
|---|---|
| `UnacceptableError` | none: the uploader sets the file aside until `Uploader.retry_now` |
| `RefusedError` | after 30 s; do not wait for it, see `Uploader.refused` |
| any other | after a random wait, up to 0.5 s at first, doubling to 15 s |

Uploads are retried until they succeed or the process ends. MLflow's own client also retries, at most once in
processes that upload (`system.mlflow_environment`).
"""

import logging
import random
import threading
from collections.abc import Callable
from itertools import count
from typing import TypeVar

import tenacity

from recon_worker.system.messages import message_log
from recon_worker.upload.errors import RefusedError, UploadError, error_type

_log = message_log(__name__)
_T = TypeVar("_T")

RESENDS = 2
"""Number of times that an acknowledged but unlisted file is resent."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 15.0
_REFUSED_WAIT_S = 30.0
download_retrying = tenacity.Retrying(
    retry=tenacity.retry_if_exception(lambda error: error_type(error) is UploadError),
    stop=tenacity.stop_after_delay(20),
    wait=tenacity.wait_exponential(max=4),
    reraise=True,
)
"""Retries a download. A snapshot waits for it: 20 s is far below the silence after which a worker counts as hung."""


class StoppedError(Exception):
    """The uploader was stopped: no further attempt follows."""


class Retries:
    """Repeats requests until they succeed. Thread-safe.

    Args:
        on_attempt: Called in the requesting thread: with False before each attempt and after most failures, with True
            after an attempt that was refused.
    """

    def __init__(self, on_attempt: Callable[[bool], None]) -> None:
        self.count = 0
        """Number of requests that failed and were repeated."""
        self.stopped = False
        self.round = 0
        """Incremented by `retry_now`, which ends the waits that began in an earlier round."""
        self._on_attempt = on_attempt
        self._changed = threading.Condition()
        self._warned = set[bool]()

    def call(self, request: Callable[[], _T], *, but_not: type[Exception] | tuple[()] = ()) -> _T:
        """Repeat a request until it succeeds. Raises `but_not` errors immediately, and StoppedError after `stop`."""
        for attempt in count(1):
            round_began = self.round
            self._on_attempt(False)
            try:
                return request()
            except but_not:
                raise
            except Exception as error:
                if self.stopped:
                    raise StoppedError from error
                if isinstance(error, RefusedError):
                    refused, wait_s = True, _REFUSED_WAIT_S
                    what = "The tracking server refuses artifacts; they stay in the spool"
                else:
                    refused, wait_s = False, random.uniform(0.0, backoff_s(attempt))
                    what = "An upload to the tracking server failed; it is tried again"
                self._on_attempt(refused)
                with self._changed:
                    level = logging.DEBUG if refused in self._warned else logging.WARNING
                    self._warned.add(refused)
                _log.log(level, "%s. %s", what, error)
                self.wait(wait_s, round_began)
        raise AssertionError("unreachable")

    def wait(self, seconds: float, round_began: int, requests: int = 1) -> None:
        """Wait before repeating requests, unless `retry_now` was called since. Raises StoppedError after `stop`."""
        with self._changed:
            self.count += requests
            self._changed.wait_for(lambda: self.stopped or self.round > round_began, seconds)
            if self.stopped:
                raise StoppedError

    def retry_now(self) -> None:
        """End all waits."""
        with self._changed:
            self.round += 1
            self._changed.notify_all()

    def stop(self) -> None:
        """End all waits and make no further attempts."""
        with self._changed:
            self.stopped = True
            self._changed.notify_all()


def backoff_s(attempt: int) -> float:
    """Return the longest wait after an attempt, counted from 1. The exponent is bounded: an outage may last days."""
    return min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(attempt - 1, 32))
