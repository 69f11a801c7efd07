"""The command that uploads what is left, ready to paste, whether or not this program is installed."""

import os
import shlex
import shutil
import site
import sys
import sysconfig
from pathlib import Path

_NAME = "recon-worker"


def sync_command(folder: str | Path) -> str:
    """For a POSIX shell, whatever the folder is called.

    Args:
        folder: The spool, or one run's folder in it.
    """
    return f"{_program()} sync {quoted(folder)}"


def quoted(folder: str | Path) -> str:
    """As a word of a shell; bytes that are no text, or that a terminal would obey, as in `$'...'` of bash and zsh."""
    path = str(folder)
    return shlex.quote(path) if path.isprintable() else f"$'{''.join(map(_escaped, path))}'"


def _escaped(letter: str) -> str:
    if letter in "\\'":
        return f"\\{letter}"
    return letter if letter.isprintable() else "".join(f"\\{byte:03o}" for byte in os.fsencode(letter))


def _program() -> str:
    """The console script; where there is none, as beside a package that was copied, Python with the package's place."""
    if shutil.which(_NAME):
        return _NAME
    beside = Path(sys.executable).with_name(_NAME)
    if os.access(beside, os.X_OK):
        return shlex.quote(str(beside))
    place = Path(__file__).resolve().parent.parent
    installed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), site.getusersitepackages()}
    path = "" if str(place) in installed else f"PYTHONPATH={shlex.quote(str(place))} "
    return f"{path}{shlex.quote(sys.executable)} -m recon_worker"
