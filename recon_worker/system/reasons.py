"""Why something failed, in one line. The root cause comes first: libraries wrap it in ever more general words."""

from collections.abc import Iterator

import tenacity

from recon_worker.system.uris import without_credentials

_LONGEST = 300
"""Characters of the root cause, and of the error that was raised."""
_GAP = " … "


def reason(error: BaseException) -> str:
    """The type and text of an error, after its root cause unless the text holds that already; without credentials.

    Args:
        error: As raised; followed through its cause or context, `reason` (urllib3) and arguments (requests).
    """
    raised, cause = shortened(_named(error)), _root_cause_of(error)
    return raised if _text(cause) in raised else f"{shortened(_named(cause))} ({raised})"


def failure_of(state: tenacity.RetryCallState) -> BaseException:
    """What the last try raised, before the next one."""
    assert state.outcome is not None
    error = state.outcome.exception()
    assert error is not None
    return error


def shortened(text: str, longest: int = _LONGEST) -> str:
    """A text on one line, of which the middle is left out if it is too long."""
    text = " ".join(text.split())
    if len(text) <= longest:
        return text
    half = (longest - len(_GAP)) // 2
    return text[:half].rstrip() + _GAP + text[-half:].lstrip()


def _named(error: BaseException) -> str:
    text = _text(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _text(error: BaseException) -> str:
    return " ".join(without_credentials(str(error)).split())


def _root_cause_of(error: BaseException) -> BaseException:
    seen: list[BaseException] = []
    while error not in seen:
        seen.append(error)
        error = next(_beneath(error), error)
    return error


def _beneath(error: BaseException) -> Iterator[BaseException]:
    """What an error was made of, the closest first."""
    wrapped = (getattr(error, "reason", None), *error.args)
    context = None if error.__suppress_context__ else error.__context__
    yield from (one for one in (*wrapped, error.__cause__, context) if isinstance(one, BaseException))
