"""Tracking URIs: what may be shown and written down."""

import re


def without_credentials(uri: str) -> str:
    """A URI, or a text that quotes one, without user and password."""
    return re.sub(r"//[^/?#\s]*@", "//", uri)
