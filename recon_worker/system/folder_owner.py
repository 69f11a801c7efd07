"""Checks who owns a folder: the owner can replace its contents by other files or links."""

import contextlib
import os
import pwd
import stat
from pathlib import Path


def why_not_ours(folder: Path, *, shared: bool = False) -> str | None:
    """Explain why a folder is unsafe for files of this user; None if this user or root owns it.

    Args:
        folder: Existing folder; may be a `/proc/self/fd/...` path.
        shared: Also accept folders with the sticky bit, such as /tmp.

    Raises:
        OSError: The folder cannot be inspected.
    """
    found = folder.stat()
    if found.st_uid in (0, os.geteuid()) or (shared and found.st_mode & stat.S_ISVTX):
        return None
    if found.st_uid == _owner_of_new_files(folder):  # mounts of containers may assign all files to one user
        return None
    try:
        owner = f"the user {pwd.getpwuid(found.st_uid).pw_name}"
    except KeyError:
        owner = f"the user with the number {found.st_uid}"
    return f"it belongs to {owner}, who could replace it by other files or links"


def _owner_of_new_files(folder: Path) -> int | None:
    place = folder / f".recon-log-owner.{os.getpid()}"
    try:
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError:
        return None
    try:
        return os.fstat(descriptor).st_uid
    finally:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            place.unlink()
