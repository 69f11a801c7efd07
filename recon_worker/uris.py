"""Tracking URIs: what may be shown and written down."""

import re

_CREDENTIALS = {"user", "username", "password", "passwd", "pwd", "token"}
"""Options of a query that are left out."""


def without_credentials(uri: str) -> str:
    """A URI, or a text that quotes one, without user and password, be they before the host or in the query."""
    return re.sub(r"\?([^#\s]*)", _query_without_credentials, re.sub(r"//[^/?#\s]*@", "//", uri))


def shown(uri: str) -> str:
    """A URI from a spool as it may be printed: no credentials, no control characters."""
    return "".join(c if c.isprintable() else "?" for c in without_credentials(uri))


def _query_without_credentials(query: re.Match[str]) -> str:
    options = query[1].split("&")
    kept = [option for option in options if option.partition("=")[0].lower() not in _CREDENTIALS]
    if kept == options:
        return query[0]
    return f"?{'&'.join(kept)}" if kept else ""
