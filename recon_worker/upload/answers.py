"""What a server's answers mean: refusals, and answers that are none of MLflow's.

A proxy, a sign-in page or a firewall in front of the artifacts may answer an upload with a redirect or with a page.
MLflow's client takes both for success.
"""

import functools
import re
from typing import Any

_HTML = "text/html"
_NO_ANSWER_OF_MLFLOW = re.compile(r"failed with error code 3\d\d\b|not in a valid JSON format")
"""How MLflow's client puts it where the tracking API redirects or answers with a page."""
_NO_LISTING_STATUS = {403, 404, 405, 501}
_NO_LISTING_CODES = {"PERMISSION_DENIED", "RESOURCE_DOES_NOT_EXIST", "ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED"}


class RefusedError(RuntimeError):
    """The server answers, but does not take this, and would answer the same again."""


class UnacceptableError(RefusedError):
    """The same of one artifact; others may be taken."""


class LostError(UnacceptableError):
    """The server acknowledges an artifact again and again, and it is not there."""


class UnlistableError(RuntimeError):
    """The artifacts cannot be listed."""


def status_of(error: BaseException) -> int:
    """The HTTP status that an error of MLflow's client, or of a cloud store's, is about; 0: it names none."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # of S3
        return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    named = (getattr(response, "status_code", 0), getattr(error, "status_code", 0), getattr(error, "code", 0))
    return next((status for status in named if isinstance(status, int) and status), 0)  # ..., Azure, Google


def is_no_answer_of_mlflow(error: BaseException) -> bool:
    """Whether something else than MLflow has answered a call of the tracking API."""
    return _NO_ANSWER_OF_MLFLOW.search(str(error)) is not None


def forbids_listing(error: BaseException) -> bool:
    """Whether the store does not let this user list artifacts, or cannot list at all."""
    named = status_of(error) in _NO_LISTING_STATUS or getattr(error, "error_code", "") in _NO_LISTING_CODES
    return named or isinstance(error, PermissionError | NotImplementedError)


@functools.cache
def check_answers_to_uploads() -> None:
    """Have MLflow's client in this process raise RefusedError where something else than a server answers an upload."""
    import mlflow.store.artifact.http_artifact_repo as http_artifact_repo

    request: Any = vars(http_artifact_repo)["http_request"]

    @functools.wraps(request)
    def checked(host_creds: Any, endpoint: str, method: str, *args: Any, **more: Any) -> Any:  # noqa: ANN401
        response = request(host_creds, endpoint, method, *args, **more)
        if method == "PUT":
            _refuse_what_is_no_answer(response)
        return response

    vars(http_artifact_repo)["http_request"] = checked


def _refuse_what_is_no_answer(response: Any) -> None:  # noqa: ANN401
    status, kind = response.status_code, response.headers.get("Content-Type", "")
    if 300 <= status < 400:
        raise RefusedError(
            f"an upload is answered with {status}, a redirect: a proxy or a sign-in page is in front of the artifacts."
        )
    if response.request.method != "PUT":
        raise RefusedError("an upload is redirected to something that is only read, as to a sign-in page.")
    if status < 300 and kind.lower().startswith(_HTML):
        raise RefusedError(
            f"an upload is answered with {status} and a page: a proxy or a sign-in page is in front of the artifacts."
        )
