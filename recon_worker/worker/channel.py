"""The worker's end of the pipe to the training process. Messages are JSON objects."""

import json
import logging
import os
import threading
from multiprocessing.connection import Connection
from typing import Any

_PARENT_POLL_S = 1.0

Message = dict[str, Any]


class Channel(logging.Handler):
    """The worker's end of the pipe, and a log handler that sends records through it. Thread-safe.

    Args:
        connection: The pipe.
        parent: Process id of the training process.
    """

    def __init__(self, connection: Connection, parent: int) -> None:
        super().__init__(logging.INFO)
        self._connection = connection
        self._parent, self._sending = parent, threading.Lock()

    def send(self, kind: str, **fields: Any) -> None:  # noqa: ANN401
        """Send a message to the training process; does nothing if it is dead."""
        try:
            with self._sending:
                self._connection.send_bytes(json.dumps({"is": kind, **fields}).encode())
        except OSError:
            pass

    def receive(self) -> Message:
        """Wait for the next message. Raises EOFError if the training process is dead."""
        try:
            while not self._connection.poll(_PARENT_POLL_S):
                if os.getppid() != self._parent:
                    raise EOFError  # a process forked meanwhile keeps its end of the pipe open
            message: Message = json.loads(self._connection.recv_bytes())
            return message
        except OSError as error:
            raise EOFError from error

    def emit(self, record: logging.LogRecord) -> None:
        """Send a log record to the training process."""
        self.send("log", level=record.levelno, text=self.format(record))
