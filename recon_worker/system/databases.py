"""SQLite databases behind tracking URIs: their location, and whether they belong to MLflow."""

import contextlib
import re
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

_SQLITE = re.compile(r"sqlite(\+\w+)?:")
_TABLES = {"runs", "experiments", "alembic_version"}
_LOCK_TIMEOUT_S = 5.0
_READ_ONLY = "mode=ro"
_IMMUTABLE = "mode=ro&immutable=1"
"""For a database with an unfinished write: any other read-only connection would first have to complete that write."""


def is_sqlite(uri: str) -> bool:
    """Return whether a tracking URI names an SQLite database."""
    return _SQLITE.match(uri) is not None


def with_absolute_path(uri: str) -> str:
    """Make the path of an SQLite URI independent of the working directory; return other URIs unchanged."""
    beginning, found, rest = uri.partition(":///")
    name, mark, options = rest.partition("?")
    kind, path = ("file:", name.removeprefix("file:")) if name.startswith("file:") else ("", name)
    if not is_sqlite(uri) or not found or path in ("", ":memory:"):
        return uri
    return f"{beginning}:///{kind}{Path(path).absolute()}{mark}{options}"


def as_opened_by(client: Any, uri: str) -> str:  # noqa: ANN401 - a mlflow.MlflowClient
    """Make the path of an SQLite URI absolute, as the client opened it.

    The working directory may have changed since, so the path is read from the open database.

    Args:
        client: Client that was created with `uri`.
        uri: Tracking URI.
    """
    engine = getattr(client._tracking_client.store, "engine", None)
    if engine is None or with_absolute_path(uri) == uri:
        return uri
    with engine.connect() as connection:
        file = connection.exec_driver_sql("PRAGMA database_list").fetchone()[2]
    return f"{uri.partition(':///')[0]}:///{file}{''.join(uri.partition('?')[1:])}"


def why_not_mlflows(uri: str) -> str | None:
    """Explain why the SQLite database of a tracking URI is not an MLflow database; None if it is. Changes nothing.

    Raises:
        sqlite3.OperationalError: The database is locked or currently unreadable.
    """
    from sqlalchemy import make_url  # MLflow resolves the URI to a file with it

    named = make_url(uri).database
    file = Path((named or "").removeprefix("file:")).absolute()
    if not named or not file.is_file():
        return f"there is no database {file}."
    for options in (_READ_ONLY, _IMMUTABLE):
        place = f"file:{quote(str(file))}?{options}"
        try:
            with contextlib.closing(sqlite3.connect(place, uri=True, timeout=_LOCK_TIMEOUT_S)) as connection:
                rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            break
        except sqlite3.OperationalError as error:
            unfinished_write = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
            if options == _IMMUTABLE or not unfinished_write:
                raise
        except sqlite3.DatabaseError:
            return f"{file} is not an SQLite database."
    missing = sorted(_TABLES - {name for (name,) in rows})
    return f"{file} is not an MLflow database: table {missing[0]} is missing." if missing else None
