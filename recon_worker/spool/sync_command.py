"""The shell command that uploads a spool, ready to paste, even if this package is not installed."""

import os
import shlex
import shutil
import site
import sys
import sysconfig
from pathlib import Path

_NAME = "recon-worker"


def sync_command(folder: str | Path) -> str:
    """Return the command, in POSIX shell syntax, for a spool or the folder of one run. The path may contain any bytes.

    Without the console script, as with a copied package, it runs Python with the package's parent in PYTHONPATH.
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
