"""Tracking URIs: what may be shown and written down.

A password may hold anything but `@`, and the query of a database URI goes to the end of the line, as SQLAlchemy reads
them (`sqlalchemy.engine.url.make_url`). Of a query stays what is known to be harmless: names of keys and passwords have
no end. What is hidden by mistake costs a word of a message; what is shown by mistake, a password.
"""

import re
from urllib.parse import unquote_plus

_HARMLESS = frozenset(
    """
    driver charset client_encoding collation use_unicode application_name schema database ssl sslmode ssl_mode
    encrypt trustservercertificate trusted_connection gssencmode mode cache uri vfs immutable nolock isolation_level
    check_same_thread autocommit timeout connect_timeout connection_timeout read_timeout write_timeout pool_timeout
    keepalives keepalives_idle keepalives_interval keepalives_count target_session_attrs workflowtype page
    """.split()  # noqa: SIM905 - forty lines else
)
"""Options that stay, in lower case."""
_WEB, _DATABASE = r"\bhttps?://", r"\b(?!https?://)[A-Za-z][\w+.-]*://"
_MORE = r"(?:[^\s?]*@)?"
"""Where the password holds an `@` that is not written as `%40`."""
_USERS = [
    re.compile(rf"(?P<start>{_DATABASE})(?:[^:/\n]*:[^@\n]*|[^:/\s@]*)@{_MORE}", re.IGNORECASE),
    re.compile(rf"(?P<start>{_WEB})[^:/?#\s@]*:(?!\d*(?:[/?#\s]|$))[^@\s]*@{_MORE}", re.IGNORECASE),
    re.compile(r"(?P<start>(?<!/)//)(?!/)[^/?#\s]*@"),
]
_OPTIONS = [
    re.compile(rf"(?P<start>{_DATABASE}[^?\n]*)(?P<sign>\?)(?P<options>[^\n]*)", re.IGNORECASE),
    re.compile(rf"(?P<start>{_WEB}[^\s?#]*)(?P<sign>\?)(?P<options>\S*)", re.IGNORECASE),
    re.compile(rf"(?P<start>{_WEB}[^\s#]*#[^\s?]*)(?P<sign>\?)(?P<options>\S*)", re.IGNORECASE),
    re.compile(rf"(?P<start>{_WEB}[^\s#]*)(?P<sign>#)(?P<options>[^\s=?]*=\S*)", re.IGNORECASE),
]


def without_credentials(text: str) -> str:
    """A URI, or a text that quotes some, without users, passwords, and options that may be keys."""
    for users in _USERS:
        text = users.sub(r"\g<start>", text)
    for options in _OPTIONS:
        text = options.sub(_with_harmless_options, text)
    return text


def shown(uri: str) -> str:
    """A URI from a spool as it may be printed: no credentials, no control characters."""
    return "".join(c if c.isprintable() else "?" for c in without_credentials(uri))


def _with_harmless_options(found: re.Match[str]) -> str:
    kept = [option for option in re.split("[&;]", found["options"]) if _is_harmless(option)]
    if found["options"] and not kept:
        return found["start"]
    return found["start"] + found["sign"] + "&".join(kept)


def _is_harmless(option: str) -> bool:
    name, _, value = option.partition("=")
    return unquote_plus(name).strip().lower() in _HARMLESS and "@" not in unquote_plus(value)
