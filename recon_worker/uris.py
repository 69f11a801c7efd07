"""Tracking URIs: what may be shown and written down."""

import re


def without_credentials(uri: str) -> str:
    """The URI without user and password."""
    return re.sub(r"//[^/@]*@", "//", uri)
