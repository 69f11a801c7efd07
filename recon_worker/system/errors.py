"""Describes errors on one line; recognises those of signal handlers, and those caused by a lack of machine resources.

Libraries wrap a root cause in ever more general exceptions, so `reason` names the root cause first.
"""

import errno
import functools
import gc
import signal
import sys
import traceback
from itertools import pairwise
from types import CellType, CodeType, FrameType
from typing import Any

from recon_worker.system.uris import without_credentials

_MAX_CHARACTERS = 300
"""Maximum length of the root cause, and of the raised error."""
_ELLIPSIS = " … "
_SHORTAGES = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EAGAIN,  # the limit of processes and threads is reached
    errno.EROFS,
    errno.EIO,
    errno.ESTALE,
}
_NO_THREAD = "can't start new thread"


def reason(error: BaseException) -> str:
    """Describe an error by type and text, preceded by its root cause unless the text already contains it.

    Credentials are removed. The chain is followed through `__cause__`, `__context__`, the attribute `reason` (urllib3)
    and the arguments (requests).
    """
    root, seen = error, list[BaseException]()
    while root not in seen:  # exceptions may refer to each other
        seen.append(root)
        context = None if root.__suppress_context__ else root.__context__
        wrapped = (getattr(root, "reason", None), *root.args, root.__cause__, context)
        root = next((one for one in wrapped if isinstance(one, BaseException)), root)
    (raised, whole), (cause, text) = _described(error), _described(root)
    return raised if text == whole or text in raised else f"{cause} ({raised})"


def is_shortage(error: BaseException | None) -> bool:
    """Return whether the machine, not the snapshot, caused an error or one of its `__cause__` ancestors.

    Shortages are a full disk or quota, too little memory, too few descriptors or threads, and a file system that is
    read-only or does not respond. Callers keep the snapshot and retry; any other error counts against the snapshot.
    """
    while error is not None:
        by_number = isinstance(error, OSError) and error.errno in _SHORTAGES
        no_thread = isinstance(error, RuntimeError) and _NO_THREAD in str(error)
        if by_number or no_thread or isinstance(error, MemoryError):
            return True
        error = error.__cause__
    return False


def raise_if_from_signal_handler(error: BaseException) -> None:
    """Raise the error, or the error in its chain, that a signal handler of the application raised; return if none did.

    Such an error is meant for the training, for example to end it before a job's time limit, and must not be caught.
    An error that the training is already handling, such as one of an earlier signal, is not raised again.
    """
    handlers = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()}
    running = {frame for frame, _ in traceback.walk_stack(sys._getframe())}
    seen, current = list[BaseException](), error
    while current not in seen:  # exceptions may refer to each other
        frames = [frame for frame, _ in traceback.walk_tb(current.__traceback__)]
        if current is not error and frames and frames[0] in running:  # which has caught it
            return
        if any(inner.f_code in handlers or _interrupts(inner, outer) for outer, inner in pairwise(frames)):
            context = current.__context__
            try:
                raise current
            finally:
                current.__context__ = context  # `raise` has replaced it by the error that is being handled
        seen.append(current)
        current = current.__cause__ or current.__context__ or current


def _interrupts(frame: FrameType, caller: FrameType) -> bool:
    """Return whether a frame was called like a signal handler: with a number and the frame that it interrupts.

    A handler that has restored the default, so that a second signal ends the program, is no longer installed.
    """
    held = list[object]()
    for one in gc.get_referents(frame):  # arguments come first, in order; `f_locals` would keep tensors alive
        held += one if type(one) is tuple else gc.get_referents(one) if type(one) is CellType else [one]
    return any(isinstance(number, int) and at is caller for number, at in pairwise(held))


def _code_of(handler: Any) -> CodeType | None:  # noqa: ANN401 - a function, any other callable, or a number
    """Return the code of a signal handler written in Python."""
    function = handler.func if isinstance(handler, functools.partial) else getattr(handler, "__func__", handler)
    call = function if hasattr(function, "__code__") else getattr(type(function), "__call__", None)  # noqa: B004
    code: CodeType | None = getattr(call, "__code__", None)
    return code


def _described(error: BaseException) -> tuple[str, str]:
    """Return an error on one line, its middle replaced by an ellipsis if it is long, and its text alone."""
    text = " ".join(without_credentials(str(error)).split())
    line = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if len(line) > _MAX_CHARACTERS:
        half = (_MAX_CHARACTERS - len(_ELLIPSIS)) // 2
        line = line[:half].rstrip() + _ELLIPSIS + line[-half:].lstrip()
    return line, text
