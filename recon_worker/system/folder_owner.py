"""Whose a folder is: its owner can put other files, and links, in the place of what is in it."""

import contextlib
import os
import pwd
import stat
from pathlib import Path


def why_not_ours(folder: Path, *, shared: bool = False) -> str | None:
    """Why a folder is not safe to keep files in; None: it is this user's own, or root's.

    Args:
        folder: It is there, and may be a `/proc/self/fd/...`.
        shared: Whether one in which everybody may only touch what is their own, like /tmp, is safe too.

    Raises:
        OSError: It cannot be looked at.
    """
    found = folder.stat()
    if found.st_uid in (0, os.geteuid()) or (shared and found.st_mode & stat.S_ISVTX):
        return None
    if found.st_uid == _owner_of_new_files(folder):  # a mount that gives all files to one user, as of a container
        return None
    return f"it belongs to {_name(found.st_uid)}, who could put other files, or links, in its place"


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


def _name(uid: int) -> str:
    try:
        return f"the user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"the user with the number {uid}"
