"""Describes errors on one line; recognises those caused by a lack of machine resources.

Libraries wrap a root cause in ever more general exceptions, so `reason` names the root cause first.
"""

import errno

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


def _described(error: BaseException) -> tuple[str, str]:
    """Return an error on one line, its middle replaced by an ellipsis if it is long, and its text alone."""
    text = " ".join(without_credentials(str(error)).split())
    line = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if len(line) > _MAX_CHARACTERS:
        half = (_MAX_CHARACTERS - len(_ELLIPSIS)) // 2
        line = line[:half].rstrip() + _ELLIPSIS + line[-half:].lstrip()
    return line, text
