"""Errors of the logging, and `Guard`, which keeps them from ending training."""

import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from torch import Tensor

from recon_worker.spool.folder import SpoolError
from recon_worker.system.errors import reason
from recon_worker.system.handler_errors import raise_if_from_signal_handler
from recon_worker.system.messages import message_log

_log = message_log(__name__)
NOTHING_LOGGED = "No reconstructions are logged"
"""Consequence of a failure at the start, for messages."""


class WrongSettingError(ValueError):
    """A setting is invalid for the data. Raised before the first step, with or without `strict`."""


class UnusableDataError(RuntimeError):
    """Something cannot be logged. The message gives the reason, without a traceback, and ends with a full stop."""


class UnusablePredictionsError(UnusableDataError, ValueError):
    """Predictions, or the numbers of their samples, have a wrong shape, type or range."""


class LeftEpochError(RuntimeError):
    """A training loop left an epoch with an exception of its own, before all predictions were added."""


@contextmanager
def wrong_spool() -> Iterator[None]:
    """Convert a SpoolError of the block to a WrongSettingError."""
    try:
        yield
    except SpoolError as error:
        raise WrongSettingError(str(error)) from error


def described(value: object) -> str:
    """Describe a value by its type, its length or shape, and the types of its first elements."""
    name = type(value).__name__
    if isinstance(value, Tensor | np.ndarray):
        return f"a {name} of shape {tuple(value.shape)}, {value.dtype}"
    if isinstance(value, Mapping):
        return f"a {name} with the keys {sorted(map(str, value))[:12]}"
    if isinstance(value, tuple | list):
        return f"a {name} of {len(value)}: ({', '.join(described(one) for one in value[:4])})"
    return f"a {name}"


class MisfitWarning:
    """Warns, once per run, that samples have no misfit, and why. Their predictions are logged all the same."""

    def __init__(self) -> None:
        self._given = False

    def __call__(self, source: str, error: Exception) -> None:
        """Log an error, unless one has been logged. `source`: name of the measured patterns."""
        if not self._given:
            self._given = True
            failed = f"it cannot be computed from {source} ({reason(error)})."
            why = str(error) if isinstance(error, UnusableDataError) else failed
            _log.warning("Samples have no misfit: %s Everything else is logged.", why)


class Guard:
    """Keeps logging errors from ending training, counts them, and measures how long logging delays training.

    Args:
        strict: Raise the errors instead.
    """

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self.errors = 0
        """Number of errors so far. The first one is logged."""
        self._stall_s = 0.0
        self._began_s = 0.0

    @contextmanager
    def __call__(self, where: str, *, lost: str = "A reconstruction is not logged") -> Iterator[None]:
        """Catch errors of a block, except `WrongSettingError`. `where` and `lost` appear in the message."""
        self._began_s = time.perf_counter()
        try:
            yield
        except LeftEpochError:  # the training loop's own exception follows
            pass
        except Exception as error:  # logging failures must not stop training
            raise_if_from_signal_handler(error)
            if self.strict or isinstance(error, WrongSettingError):
                raise
            self._report(error, where, lost)
            traceback.clear_frames(error.__traceback__)  # they hold predictions, perhaps on a GPU
        finally:
            self._stall_s += time.perf_counter() - self._began_s

    def _report(self, error: Exception, where: str, lost: str) -> None:
        """Count an error; log the first one."""
        self.errors += 1
        if self.errors > 1:
            return
        if isinstance(error, UnusableDataError):
            line, _, example = str(error).partition("\n")
            _log.warning("%s: %s Training continues.%s", lost, line, f"\n{example}" if example else "")
        else:
            _log.warning("Reconstruction logging failed in %s; training continues.", where, exc_info=error)

    def add_stall(self, began_s: float) -> None:
        """Add the time since `began_s` (`time.perf_counter`)."""
        self._stall_s += time.perf_counter() - began_s

    @property
    def stall_s(self) -> float:
        """Seconds by which logging has delayed training since the last `restart`. Valid only within a block."""
        return self._stall_s + time.perf_counter() - self._began_s

    def restart(self) -> None:
        """Measure `stall_s` from now on."""
        self._stall_s, self._began_s = 0.0, time.perf_counter()
