"""Connects to MLflow and to a run's artifacts, and works around two faults of its client.

The client reports database errors twice, as an exception and as a log record with a thirty-line traceback, which
`without_mlflow_tracebacks` suppresses. It also treats a redirect or a web page, sent by a proxy, a sign-in page or a
firewall in front of the artifacts, as a successful upload: `connect` installs a check that raises RefusedError.
"""

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recon_worker.spool.run_target import RunTarget
from recon_worker.system.databases import is_sqlite, why_not_mlflows
from recon_worker.system.errors import reason
from recon_worker.upload.errors import RefusedError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

_thread = threading.local()
_PATIENCE_S = 10.0
_NO_SUCH_RUN = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}


def connect(target: RunTarget) -> "MlflowClient":
    """Return a client of the server that has the run.

    Raises:
        RefusedError: The SQLite database does not exist or is not MLflow's: MLflow would create its tables in it.
        Exception: Any error of the client.
    """
    import mlflow

    refusal = why_not_mlflows(target.tracking_uri) if is_sqlite(target.tracking_uri) else None
    if refusal:
        raise RefusedError(refusal)
    _check_upload_answers()
    return mlflow.MlflowClient(target.tracking_uri)


def why_no_run(target: RunTarget) -> str | None:
    """Explain why nothing can be logged to a run; None if it exists, or if the server does not say so in time.

    Asks the server in a separate thread, because MLflow's client tries for minutes to reach it.
    """
    refusals = list[str]()

    def ask() -> None:
        try:
            with without_mlflow_tracebacks():
                run = connect(target).get_run(target.run_id)
            if run.info.lifecycle_stage == "deleted":
                refusals.append(f"run {target.run_id} is deleted")
        except Exception as error:  # any error of the client
            if isinstance(error, RefusedError) or getattr(error, "error_code", "") in _NO_SUCH_RUN:
                refusals.append(reason(error))

    thread = threading.Thread(target=ask, name="run-exists", daemon=True)
    with contextlib.suppress(RuntimeError):  # no thread can be started: the answer stays unknown
        thread.start()
        thread.join(_PATIENCE_S)
    return next(iter(refusals), None)


def artifact_store(client: "MlflowClient", run: "Run") -> "ArtifactRepository":
    """Return the store of a run's artifacts. It lists a folder with one request; the client needs four."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.utils.uri import add_databricks_profile_info_to_artifact_uri

    with_profile: Any = add_databricks_profile_info_to_artifact_uri
    uri = client.tracking_uri
    return get_artifact_repository(with_profile(run.info.artifact_uri, uri), tracking_uri=uri)


def local_artifact(store: "ArtifactRepository", path: str, folder: Callable[[], Path]) -> Path:
    """Return an artifact as a file: in place if the store is a folder of this machine, otherwise downloaded.

    Sends one request and shows no progress bar, unlike MLflow's `download_artifacts`.

    Args:
        store: The run's artifacts.
        path: Trusted path of the artifact, in POSIX form.
        folder: Returns the folder for downloads; called only if needed. A file that is already in it is not downloaded
            again.

    Raises:
        Exception: Any error of the store.
    """
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    untyped: Any = store
    if isinstance(store, LocalArtifactRepository):
        return Path(untyped.download_artifacts(path))
    place = folder() / path
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        half = place.with_name(f"{place.name}.{threading.get_ident()}.half")  # several threads may read one run
        untyped._download_file(path, str(half))
        half.replace(place)
    return place


@contextlib.contextmanager
def without_mlflow_tracebacks() -> Iterator[None]:
    """Suppress MLflow's error log of this thread, for calls whose exceptions are caught and logged in one line."""
    logging.getLogger("mlflow.store.db.utils").addFilter(_is_wanted)  # repeated calls add it once
    before = _is_wanted()
    _thread.wanted = False
    try:
        yield
    finally:
        _thread.wanted = before


def _is_wanted(_: logging.LogRecord | None = None) -> bool:
    return getattr(_thread, "wanted", True)


@functools.cache
def _check_upload_answers() -> None:
    """Wrap the HTTP request function of MLflow's artifact client in this process."""
    import mlflow.store.artifact.http_artifact_repo as http_artifact_repo

    request: Any = vars(http_artifact_repo)["http_request"]

    @functools.wraps(request)
    def checked(host_creds: Any, endpoint: str, method: str, *args: Any, **more: Any) -> Any:  # noqa: ANN401
        response = request(host_creds, endpoint, method, *args, **more)
        if method != "PUT":
            return response
        status, kind, answer = response.status_code, response.headers.get("Content-Type", ""), ""
        if 300 <= status < 400:
            answer = f"answered with {status}, a redirect"
        elif response.request.method != "PUT":
            answer = f"redirected and turned into a {response.request.method}"
        elif status < 300 and kind.lower().startswith("text/html"):
            answer = f"answered with {status} and a web page"
        if answer:
            raise RefusedError(f"an upload was {answer}: a proxy or a sign-in page is in front of the artifacts.")
        return response

    vars(http_artifact_repo)["http_request"] = checked
