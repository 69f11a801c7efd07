"""Decides whether a `sync` may contact the server named in a spool.

It may if a training run of this user wrote the spool: its run.json is signed with a key in the user's state directory.
Any other spool, from another user or an earlier version, must not direct credentials to a server that the user has not
named, nor MLflow, which creates missing tables, to a database.
"""

import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import shlex
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recon_worker.system.databases import is_sqlite, with_absolute_path
from recon_worker.system.messages import message_log
from recon_worker.system.uris import shown, without_credentials

_log = message_log(__name__)

SIGNATURE = "signature"
_KEY_BYTES = 32
_CREDENTIALS = (
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_CLIENT_CERT_PATH",
)
_SIGV4 = "MLFLOW_TRACKING_AWS_SIGV4"
_CREDENTIALS_FILE = "~/.mlflow/credentials"
_SERVER = re.compile(r"(https?)://([a-z0-9.-]+|\[[0-9a-f:.]+\])(?::(\d{1,5}))?(?:/[^\s@\\]*)?", re.IGNORECASE)
"""An HTTP address. Addresses that programs could interpret differently do not match."""
_PORTS = {"http": 80, "https": 443}


def signed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record (run.json) with its signature; unsigned if the user has no key and none can be created."""
    try:
        key = _key(create=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: the home directory is unknown
        _log.debug("The spool is not signed: %s. A sync may ask you to name the tracking server.", error)
        return dict(record)
    return {**record, SIGNATURE: _signature(key, record)}


def is_own(record: Mapping[str, Any]) -> bool:
    """Return whether a record has a valid signature of this user."""
    given = record.get(SIGNATURE)
    try:
        key = _key(create=False)
    except FileNotFoundError:
        return False
    except (OSError, RuntimeError) as error:
        _log.debug("The signature of the spool cannot be checked: %s.", error)
        return False
    return isinstance(given, str) and given.isascii() and hmac.compare_digest(given, _signature(key, record))


def _signature(key: bytes, record: Mapping[str, Any]) -> str:
    content = {name: value for name, value in record.items() if name != SIGNATURE}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _key(*, create: bool) -> bytes:
    """Return the user's key. If it is missing, create it or raise FileNotFoundError.

    Raises:
        OSError: The key cannot be read or created, is damaged, or is accessible to other users.
    """
    named = Path(os.environ.get("XDG_STATE_HOME", ""))
    state = named if named.is_absolute() else Path("~/.local/state").expanduser()
    path = state / "recon-worker" / "key"
    if create and not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        own = path.with_name(f"key.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            with os.fdopen(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(_KEY_BYTES))
            with contextlib.suppress(FileExistsError):  # another process has just created it: use that one
                os.link(own, path)  # so that it is complete when it appears
        finally:
            own.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        found = os.fstat(file.fileno())
        private = found.st_uid == os.geteuid() and not found.st_mode & 0o077
        if not stat.S_ISREG(found.st_mode) or not private:
            raise OSError(f"{path} must be a regular file of yours that nobody else can read; remove it")
        key = file.read(_KEY_BYTES + 1)
    if len(key) != _KEY_BYTES:
        raise OSError(f"{path} does not hold {_KEY_BYTES} bytes; remove it")
    return key


def why_refused(uri: str, *, own: bool) -> str | None:
    """Explain why a `sync` may not contact the server named in a spool, and how to permit it; None if it may.

    SQLite databases are always permitted: they are inspected before they are opened (`databases.why_not_mlflows`).

    Args:
        uri: The tracking URI.
        own: Whether the spool is this user's (`is_own`), or the user has named the URI.
    """
    server = _server(uri)
    named = without_credentials(with_absolute_path(os.environ.get("MLFLOW_TRACKING_URI", "")))
    if own or is_sqlite(uri) or uri == named or (server is not None and server == _server(named)):
        return None
    unsigned = "and the spool is not signed by a training run of yours on this machine"
    agree = f"To permit it, add: --tracking-uri {shlex.quote(shown(uri))}"
    if not uri.lower().startswith(("http://", "https://")):
        return f"it names {shown(uri)}, {unsigned}. {agree}"
    # Sources of credentials, which MLflow would send to any server.
    found = [name for name in _CREDENTIALS if os.environ.get(name)]
    if os.environ.get(_SIGV4, "false").lower() not in ("", "false", "0"):
        found.append(_SIGV4)
    found += sorted(name for name in os.environ if name.startswith("DATABRICKS_"))
    if Path(os.path.expanduser(_CREDENTIALS_FILE)).exists():  # noqa: PTH111 - as MLflow does
        found.append(_CREDENTIALS_FILE)
    if not found:
        return None
    where = "{}://{}:{}".format(*server) if server else shown(uri)
    return f"it names the server {where}, {unsigned}; it would get your credentials ({', '.join(found)}). {agree}"


def _server(uri: str) -> tuple[str, str, int] | None:
    """Return scheme, host and port of an HTTP address; None for any other URI."""
    found = _SERVER.fullmatch(uri)
    if found is None or uri != shown(uri):
        return None
    scheme, host = found[1].lower(), found[2].lower()
    return scheme, host, int(found[3] or _PORTS[scheme])
