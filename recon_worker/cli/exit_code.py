"""How `recon-worker` ends."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of `recon-worker`. Of several runs the highest counts."""

    DONE = 0
    LEFT = 1
    ERROR = 2
    BUSY = 3

    @property
    def meaning(self) -> str:
        """In words, for the help."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.DONE: "all done",
    ExitCode.LEFT: "something is left or damaged; nothing is lost, try again",
    ExitCode.ERROR: "wrong usage, or a spool that cannot be read, or that names a server that you must agree to",
    ExitCode.BUSY: "another process is at work on the spool",
}
