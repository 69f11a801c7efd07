"""Recognises errors that signal handlers of the application raise: they are meant for training, not for the logging."""

import functools
import gc
import inspect
import signal
import sys
import traceback
from itertools import pairwise
from types import CellType, CodeType, FrameType
from typing import Any


def raise_if_from_signal_handler(error: BaseException) -> None:
    """Raise the error, or the error in its chain, that a signal handler of the application raised; return if none did.

    Such an error is meant for the training, for example to end it before a job's time limit, and must not be caught.
    An error that the training is already handling, such as one of an earlier signal, is not raised again.
    """
    # An installed handler is recognised by its code, because it may have deleted its arguments; any other by its call.
    handlers = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()}
    running = {frame for frame, _ in traceback.walk_stack(sys._getframe())}
    seen, current = list[BaseException](), error
    while current not in seen:  # exceptions may refer to each other
        frames = [frame for frame, _ in traceback.walk_tb(current.__traceback__)]
        if current is not error and frames and frames[0] in running:  # a frame that still runs has caught it
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
    # `f_locals` keeps tensors alive, so it is read only if the locals contain a number followed by that frame.
    held = list[object]()
    for one in gc.get_referents(frame):
        held += one if type(one) is tuple else gc.get_referents(one) if type(one) is CellType else [one]
    if not any(isinstance(number, int) and at is caller for number, at in pairwise(held)):
        return False
    code = frame.f_code
    arguments = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & inspect.CO_VARARGS)
    given = [frame.f_locals.get(name) for name in code.co_varnames[:arguments]]
    return any(one is caller or (type(one) is tuple and any(inner is caller for inner in one)) for one in given)


def _code_of(handler: Any) -> CodeType | None:  # noqa: ANN401 - a function, any other callable, or a number
    """Return the code of a signal handler written in Python."""
    if not callable(handler):  # SIG_DFL or SIG_IGN, which are enum members, or None
        return None
    function = handler.func if isinstance(handler, functools.partial) else getattr(handler, "__func__", handler)
    call = function if hasattr(function, "__code__") else getattr(type(function), "__call__", None)  # noqa: B004
    code: CodeType | None = getattr(call, "__code__", None)
    return code
