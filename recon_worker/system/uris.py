"""Removes credentials from tracking URIs before they are shown or stored.

Parses as SQLAlchemy does (`sqlalchemy.engine.url.make_url`): a password may contain any character but `@`, and the
query of a database URI extends to the end of the line. Only query options that are known to be harmless are kept, as
the names of options that hold keys or passwords are open-ended. Hiding too much costs a word of a message; hiding too
little reveals a password.
"""

import re
from urllib.parse import unquote_plus

_HARMLESS = frozenset(
    """
    driver charset client_encoding collation use_unicode application_name schema database ssl sslmode ssl_mode
    encrypt trustservercertificate trusted_connection gssencmode mode cache uri vfs immutable nolock isolation_level
    check_same_thread autocommit timeout connect_timeout connection_timeout read_timeout write_timeout pool_timeout
    keepalives keepalives_idle keepalives_interval keepalives_count target_session_attrs workflowtype page
    """.split()  # noqa: SIM905 - otherwise forty lines
)
"""Query options that are kept, in lower case."""
_WEB, _DATABASE = r"\bhttps?://", r"\b(?!https?://)[A-Za-z][\w+.-]*://"
_REST = r"(?:[^\s?]*@)?"
"""The rest of a password that contains an `@` which is not escaped as `%40`."""
_USERS = [
    re.compile(rf"(?P<start>{_DATABASE})(?:[^:/\n]*:[^@\n]*|[^:/\s@]*)@{_REST}", re.IGNORECASE),
    re.compile(rf"(?P<start>{_WEB})[^:/?#\s@]*:(?!\d*(?:[/?#\s]|$))[^@\s]*@{_REST}", re.IGNORECASE),
    re.compile(r"(?P<start>(?<!/)//)(?!/)[^/?#\s]*@"),
]
_OPTIONS = [
    re.compile(rf"(?P<start>{_DATABASE}[^?\n]*)(?P<sign>\?)(?P<options>[^\n]*)", re.IGNORECASE),
    re.compile(rf"(?P<start>{_WEB}[^\s?#]*)(?P<sign>\?)(?P<options>\S*)", re.IGNORECASE),
    re.compile(rf"(?P<start>{_WEB}[^\s#]*#[^\s?]*)(?P<sign>\?)(?P<options>\S*)", re.IGNORECASE),
    re.compile(rf"(?P<start>{_WEB}[^\s#]*)(?P<sign>#)(?P<options>[^\s=?]*=\S*)", re.IGNORECASE),
]


def without_credentials(text: str) -> str:
    """Remove users, passwords and options that may hold keys from a URI, or from a text that quotes URIs."""
    for users in _USERS:
        text = users.sub(r"\g<start>", text)
    for options in _OPTIONS:
        text = options.sub(_with_harmless_options, text)
    return text


def shown(uri: str) -> str:
    """Return a URI from a spool for printing: without credentials and control characters."""
    return "".join(c if c.isprintable() else "?" for c in without_credentials(uri))


def _with_harmless_options(found: re.Match[str]) -> str:
    kept = []
    for option in re.split("[&;]", found["options"]):
        name, _, value = option.partition("=")
        if unquote_plus(name).strip().lower() in _HARMLESS and "@" not in unquote_plus(value):
            kept.append(option)
    if found["options"] and not kept:
        return found["start"]
    return found["start"] + found["sign"] + "&".join(kept)
