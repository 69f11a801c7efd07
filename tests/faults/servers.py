"""A real `mlflow server` on loopback, and its artifacts."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import mlflow

from recon_worker.spool.run_target import RunTarget
from tests.conftest import artifacts_below
from tests.leaks import MARK

_START_S = 60

_NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


def reserved_port():
    """A socket that reserves a free port while it is open; a server can still listen on it."""
    place = socket.socket()
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    place.bind(("127.0.0.1", 0))
    return place


class MlflowServer:
    """`mlflow server` in a separate process group; may be killed and restarted.

    Args:
        folder: Folder of all data of the server. An existing `mlflow.db` is used.
    """

    options: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        self.folder, self._place = folder, reserved_port()
        self.port = self._place.getsockname()[1]
        self.artifacts = folder / "artifacts"
        self.uri = f"http://127.0.0.1:{self.port}"
        self.environment: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self):
        store = ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--artifacts-destination", self.artifacts]
        command = [sys.executable, "-m", "mlflow", "server", "--port", self.port, "--workers", 1, *store]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(word) for word in [*command, *self.options]],
                env={**_unmarked(os.environ), **_NO_JOBS, **self.environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_S
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.05)
        assert self._process.poll() is None, (self.folder / "log").read_text()

    def _answers(self):
        try:
            with urlopen(f"{self.uri}/health", timeout=5):
                return True
        except OSError:
            return False

    @property
    def pid(self):
        return 0 if self._process is None else self._process.pid

    def freeze(self):
        """Stop the server: connections are accepted but not answered until `thaw`."""
        os.killpg(self.pid, signal.SIGSTOP)

    def thaw(self):
        os.killpg(self.pid, signal.SIGCONT)

    def kill(self):
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def close(self):
        """Kill the server and release its port."""
        self.kill()
        self._place.close()


def _unmarked(environment):
    """The environment without the mark of a test: a server that one test restarts serves later tests too."""
    return {name: value for name, value in environment.items() if name != MARK}


class AuthServer(MlflowServer):
    """`mlflow server` with the basic-auth app: only accounts can read or write.

    Args:
        folder: Folder of all data of the server.
        password: Password of the user `admin`.
    """

    options = ("--app-name", "basic-auth")

    def __init__(self, folder: Path, password: str) -> None:
        super().__init__(folder)
        settings = folder / "auth.ini"
        settings.write_text(
            f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/auth.db\n"
            "admin_username = admin\nauth_cache_ttl_seconds = 60\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
        self.environment = {
            "MLFLOW_AUTH_CONFIG_PATH": str(settings),
            "MLFLOW_AUTH_ADMIN_PASSWORD": password,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "of a test",
        }

    def add_user(self, name, password):
        """Add a user with read access, as `admin`, whose credentials must be in the environment."""
        self._tell("POST", "create", username=name, password=password)

    def change_password(self, name, password):
        """Change the password of a user, as `admin`, like `add_user`."""
        self._tell("PATCH", "update-password", username=name, password=password)

    def _tell(self, method, what, **user):
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request_safe

        http_request_safe(get_default_host_creds(self.uri), f"/api/2.0/mlflow/users/{what}", method, json=user)


def new_run(uri, name):
    """Create a run in a new experiment; its artifacts go through the server."""
    client = mlflow.MlflowClient(uri)
    return RunTarget(run_id=client.create_run(client.create_experiment(name)).info.run_id, tracking_uri=uri)


def artifact_names(server, run_id):
    """Paths of a run's artifacts on the server's disk, image cards included."""
    roots = server.artifacts.glob(f"*/{run_id}/artifacts")  # none before the first artifact
    return [name for root in roots for name in artifacts_below(root)]
