"""Runs a program on a pseudo terminal, and shows what a user would have on the screen."""

import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from pathlib import Path

from tests.paths import REPOSITORY

OUTPUT = REPOSITORY / "test_output" / "terminal"
COLUMNS, ROWS = 250, 60
_PART = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|([\r\n\b])|([^\x1b\r\n\b]+)|\x1b")


def run_on_terminal(command, name, *, timeout_s, **more):
    """Run a command with a terminal as its standard streams; returns the exit code and the lines of the screen.

    Keeps them, with all that scrolled away, as test_output/terminal/<name>.txt.
    """
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm", **more.pop("env", {})}
    for variable in ("COLUMNS", "LINES"):
        environment.pop(variable, None)
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True, **more
    )
    os.close(slave)
    try:
        raw = _read(master, time.monotonic() + timeout_s)
        code = process.wait(10)
    finally:
        process.kill()
        process.wait()
        os.close(master)
    lines = screen(raw.decode())
    keep(name, "\n".join(lines))
    return code, lines


def _read(master, deadline):
    raw = bytearray()
    while select.select([master], [], [], max(0.0, deadline - time.monotonic()))[0]:
        try:
            data = os.read(master, 65536)
        except OSError:  # Linux: the last process has closed its end
            data = b""
        if not data:
            return raw
        raw += data
    raise TimeoutError(bytes(raw[-2000:]).decode(errors="replace"))


def screen(text):
    """Interpret carriage returns and cursor movements; returns all lines, without trailing spaces."""
    lines, row, column = [""], 0, 0
    for code, kind, control, words in (found.groups(default="") for found in _PART.finditer(text)):
        count = int(code) if code.isdigit() else 1
        if words:
            line = lines[row].ljust(column)
            lines[row], column = line[:column] + words + line[column + len(words) :], column + len(words)
        elif control == "\n":
            row += 1
            lines += [""] * (row - len(lines) + 1)
        elif control == "\r":
            column = 0
        elif kind == "A":
            row = max(0, row - count)
        elif kind == "K":
            lines[row] = "" if code == "2" else lines[row][:column]
    return [line.rstrip() for line in lines]


def keep(name, text):
    """Keep a transcript for readers."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    Path(OUTPUT, f"{name}.txt").write_text(text + "\n")
