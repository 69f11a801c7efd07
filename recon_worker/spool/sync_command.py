"""The shell command that uploads a spool, ready to paste, whether or not this package is installed."""

import os
import shlex
import shutil
import site
import sys
import sysconfig
from pathlib import Path

_NAME = "recon-worker"


def sync_command(folder: str | Path) -> str:
    """Return the command for a POSIX shell; the path may contain any bytes.

    Uses the console script. Without one, as beside a package that was copied, it runs Python with the package's parent
    in PYTHONPATH.

    Args:
        folder: The spool, or the folder of one run in it.
    """
    beside = Path(sys.executable).with_name(_NAME)
    if shutil.which(_NAME):
        program = _NAME
    elif os.access(beside, os.X_OK):
        program = shlex.quote(str(beside))
    else:
        home = str(Path(__file__).resolve().parents[2])
        installed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), site.getusersitepackages()}
        path = "" if home in installed else f"PYTHONPATH={shlex.quote(home)} "
        program = f"{path}{shlex.quote(sys.executable)} -m recon_worker"
    return f"{program} sync {quoted(folder)}"


def quoted(folder: str | Path) -> str:
    """Quote a path for a shell; unprintable characters and undecodable bytes need `$'...'` (bash, zsh)."""
    path = str(folder)
    if path.isprintable():
        return shlex.quote(path)
    letters = path.replace("\\", r"\\").replace("'", r"\'")
    escaped = (c if c.isprintable() else "".join(f"\\{byte:03o}" for byte in os.fsencode(c)) for c in letters)
    return f"$'{''.join(escaped)}'"
