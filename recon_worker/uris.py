"""Tracking URIs: what may be shown and written down."""

import re


def without_credentials(uri: str) -> str:
    """A URI, or a text that quotes one, without user and password, be they before the host or in the query."""
    uri = re.sub(r"//[^/?#\s]*@", "//", uri)
    uri = re.sub(r"([?&])(?:user|username|password|passwd|pwd|token)=[^&#\s]*", r"\1", uri, flags=re.IGNORECASE)
    return re.sub(r"(?<=\?)&+|(?<=&)&+|[?&]+(?=[#\s]|$)", "", uri)
