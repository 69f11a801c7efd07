"""Upload errors, and the classification of errors from MLflow, HTTP servers and cloud stores.

    UploadError               may be temporary
     └─ RefusedError          the server answered, and would answer the same again: no such run, no permission
         └─ UnacceptableError the same for a single file, such as one that is too large; others may be accepted

`retry` decides whether and when a failed upload is retried.
"""

import re

_FOREIGN_ANSWER = re.compile(r"failed with error code 3\d\d\b|not in a valid JSON format")
"""MLflow's message when the tracking API redirects or answers with a web page."""
_UNACCEPTABLE_STATUS = {413, 415, 422}
"""4xx about the content: too large, unsupported type, invalid."""
_TEMPORARY_STATUS = {408, 425, 429}
"""4xx that may succeed on retry."""
_REFUSAL_CODES = {"RESOURCE_DOES_NOT_EXIST", "ENDPOINT_NOT_FOUND", "UNAUTHENTICATED", "PERMISSION_DENIED"}
_NO_LISTING_STATUS = {403, 404, 405, 501}
_NO_LISTING_CODES = {"PERMISSION_DENIED", "RESOURCE_DOES_NOT_EXIST", "ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED"}


class UploadError(RuntimeError):
    """An upload failed. The message gives the reason, without credentials."""


class RefusedError(UploadError):
    """The server refuses uploads, and would refuse them again."""


class UnacceptableError(RefusedError):
    """The server refuses this file; it may accept others."""


def error_type(error: BaseException) -> type[UploadError]:
    """Return the error class for an error raised by MLflow's client."""
    status = _status_of(error)
    if isinstance(error, UnacceptableError) or status in _UNACCEPTABLE_STATUS:
        return UnacceptableError
    refused = (
        isinstance(error, RefusedError)
        or (400 <= status < 500 and status not in _TEMPORARY_STATUS)
        or getattr(error, "error_code", "") in _REFUSAL_CODES
        or _FOREIGN_ANSWER.search(str(error)) is not None
    )
    return RefusedError if refused else UploadError


def forbids_listing(error: BaseException) -> bool:
    """Return whether the artifact store denies listing to this user, or does not support it."""
    return (
        isinstance(error, PermissionError | NotImplementedError)
        or _status_of(error) in _NO_LISTING_STATUS
        or getattr(error, "error_code", "") in _NO_LISTING_CODES
    )


def _status_of(error: BaseException) -> int:
    """Return the HTTP status of an error of MLflow's client, S3, Azure or Google Cloud; 0 if it has none."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # S3
        return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    candidates = (getattr(response, "status_code", 0), getattr(error, "status_code", 0), getattr(error, "code", 0))
    return next((status for status in candidates if isinstance(status, int) and status), 0)
