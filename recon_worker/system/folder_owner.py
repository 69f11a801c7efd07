"""Checks the owner of a folder, who can replace its files with links or other files."""

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
    probe = folder / f".recon-log-owner.{os.getpid()}"
    with contextlib.suppress(OSError):
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(descriptor).st_uid == found.st_uid:  # mounts of containers may assign all files to one user
                return None
        finally:
            os.close(descriptor)
            probe.unlink()
    try:
        owner = f"the user {pwd.getpwuid(found.st_uid).pw_name}"
    except KeyError:
        owner = f"the user with ID {found.st_uid}"
    return f"it belongs to {owner}, who could replace its files with other files or links"
