"""SQLite databases that tracking URIs name: where they lie, and whether they are those of MLflow."""

import contextlib
import re
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

_SQLITE = re.compile(r"sqlite(\+\w+)?:")
_TABLES = {"runs", "experiments", "alembic_version"}
_LOOK_S = 5.0
"""A database that another process has locked for so long cannot be looked at."""
_READ_ONLY = "mode=ro"
_AS_IT_LIES = "mode=ro&immutable=1"
"""For a database that was left in the middle of a write: reading it otherwise means to complete that first."""


def is_sqlite(uri: str) -> bool:
    """Whether a tracking URI names an SQLite database."""
    return _SQLITE.match(uri) is not None


def with_absolute_path(uri: str) -> str:
    """The same database in whatever working directory; other tracking URIs as they are."""
    beginning, found, rest = uri.partition(":///")
    name, mark, options = rest.partition("?")
    kind, path = ("file:", name.removeprefix("file:")) if name.startswith("file:") else ("", name)
    if not is_sqlite(uri) or not found or path in ("", ":memory:"):
        return uri
    return f"{beginning}:///{kind}{Path(path).absolute()}{mark}{options}"


def as_opened_by(client: Any, uri: str) -> str:  # noqa: ANN401 - a mlflow.MlflowClient
    """Like `with_absolute_path`, of what a client was made with: SQLite took a relative path from where it was then."""
    engine = getattr(client._tracking_client.store, "engine", None)
    if engine is None or with_absolute_path(uri) == uri:
        return uri
    with engine.connect() as connection:
        file = connection.exec_driver_sql("PRAGMA database_list").fetchone()[2]
    return f"{uri.partition(':///')[0]}:///{file}{''.join(uri.partition('?')[1:])}"


def why_not_mlflows(uri: str) -> str | None:
    """Why the SQLite database that a tracking URI names is not one of MLflow's; None: it is. Changes nothing.

    Raises:
        sqlite3.OperationalError: It is locked, or cannot be read now.
    """
    from sqlalchemy import make_url  # it decides which file the URI means

    named = make_url(uri).database
    file = Path(named or "").absolute()
    if not named or not file.is_file():
        return f"there is no database {file}."
    try:
        found = _tables(file)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        return f"{file} is not an SQLite database."
    missing = sorted(_TABLES - found)
    return f"{file} is not a database of MLflow: it has no table {missing[0]}." if missing else None


def _tables(file: Path) -> set[str]:
    try:
        return _read_tables(file, _READ_ONLY)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
            raise
        return _read_tables(file, _AS_IT_LIES)


def _read_tables(file: Path, options: str) -> set[str]:
    connection = sqlite3.connect(f"file:{quote(str(file))}?{options}", uri=True, timeout=_LOOK_S)
    with contextlib.closing(connection):
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
