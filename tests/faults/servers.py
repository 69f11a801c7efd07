"""A real `mlflow server` on loopback, and a proxy in front of it that misbehaves as a test says."""

import base64
import contextlib
import http.client
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import urlopen

import mlflow

from recon_worker.spool.outbox import RunTarget
from tests.conftest import artifacts_below
from tests.leaks import MARK

_START_S = 60
_NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


def free_port():
    """A port that nobody uses now."""
    with reserved_port() as place:
        return place.getsockname()[1]


def reserved_port():
    """A socket at a free port that nobody else is given while it is open; a server can listen there all the same."""
    place = socket.socket()
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    place.bind(("127.0.0.1", 0))
    return place


class MlflowServer:
    """`mlflow server` in a process group of its own; may be killed and started again.

    Args:
        folder: Where the server keeps everything. An `mlflow.db` that lies there is used.
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
        """It takes connections and says nothing, until `thaw`."""
        os.killpg(self.pid, signal.SIGSTOP)

    def thaw(self):
        os.killpg(self.pid, signal.SIGCONT)

    def kill(self):
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def close(self):
        """Kill it, and give its port away."""
        self.kill()
        self._place.close()


def _unmarked(environment):
    """Without the mark of a test: a server that a test starts again goes on for others."""
    return {name: value for name, value in environment.items() if name != MARK}


class AuthServer(MlflowServer):
    """With MLflow's own basic-auth app: whoever has no account reads and writes nothing.

    Args:
        folder: Where the server keeps everything.
        password: Of the user `admin`.
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
        """As the user `admin`, whose credentials must be in the environment. May read everything."""
        self._tell("POST", "create", username=name, password=password)

    def change_password(self, name, password):
        """Likewise."""
        self._tell("PATCH", "update-password", username=name, password=password)

    def _tell(self, method, what, **user):
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request_safe

        http_request_safe(get_default_host_creds(self.uri), f"/api/2.0/mlflow/users/{what}", method, json=user)


@dataclass
class Fault:
    """What the proxy does with a request instead of, or beside, passing it on."""

    status: int = 0
    """Answer this; 0: pass the request on."""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"no"
    delay_s: float = 0.0
    hang: bool = False
    """Answer only when the proxy is closed."""
    reset: bool = False
    """Break the connection."""
    lose_answer: bool = False
    """Pass the request on, then break the connection."""


Rule = Callable[[str, str], Fault | None]
"""(method, path) -> what goes wrong."""


class FaultyProxy:
    """Passes requests on to `upstream`, except where `rule` says otherwise.

    Args:
        upstream: Port of the real server on loopback.
    """

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.rule: Rule = lambda method, path: None
        self.seen: list[tuple[float, str, str, bool]] = []
        """(time, method, path, whether something went wrong) of each request."""
        self.most_uploads = 0
        """That were under way at once."""
        self._uploads, self._counting = 0, threading.Lock()
        self.tokens: dict[str, str] = {}
        """Bearer token -> `user:password` of the server behind, as a single sign-on in front of it holds them.

        Other tokens are answered with 401.
        """
        self.closing = threading.Event()
        self._place = reserved_port()
        self.port = self._place.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._server: ThreadingHTTPServer | None = None
        self.listen()

    def listen(self):
        """Take connections (again)."""
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = _Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), name="faulty-proxy", daemon=True).start()

    def refuse(self):
        """Take no connections until `listen`: as if the server were down."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def close(self):
        self.closing.set()
        self.refuse()
        self._place.close()

    @contextlib.contextmanager
    def counted(self, method):
        """Count an upload while it is under way."""
        self._count(method == "PUT")
        try:
            yield
        finally:
            self._count(-(method == "PUT"))

    def _count(self, more):
        with self._counting:
            self._uploads += more
            self.most_uploads = max(self.most_uploads, self._uploads)

    def failing(self):
        """How many requests have gone wrong."""
        return sum(failed for *_, failed in self.seen)

    def is_put(self, path_part):
        """A rule's condition: an upload whose path holds `path_part`."""
        return lambda method, path: method == "PUT" and path_part in path


class _Server(ThreadingHTTPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request, client_address):
        """A client that went away, as a killed worker does, is nothing to report."""


class _Handler(BaseHTTPRequestHandler):
    owner: FaultyProxy
    protocol_version = "HTTP/1.0"

    def log_message(self, *args):
        pass

    def _handle(self):
        with self.owner.counted(self.command):
            self._serve()

    def _serve(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.owner.rule(self.command, self.path)
        if self._token() not in (None, *self.owner.tokens):
            fault = Fault(status=401)
        self.owner.seen.append((time.monotonic(), self.command, self.path, fault is not None))
        fault = fault or Fault()
        if fault.hang:
            self.owner.closing.wait()
        self.owner.closing.wait(fault.delay_s)
        if fault.hang or fault.reset:
            self._break()
        elif fault.status:
            self._answer(fault.status, fault.headers, fault.body)
        else:
            answer = self._pass_on(body)
            self._break() if fault.lose_answer else self._answer(*answer)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815

    def _pass_on(self, body):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.owner.upstream, timeout=30)
            headers = {**self.headers, **self._signed_in(), "Connection": "close"}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        except OSError:
            return 502, {}, b""
        kept = {name: value for name, value in answer.getheaders() if name.lower() == "content-type"}
        connection.close()
        return answer.status, kept, content

    def _token(self):
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        return token if kind == "Bearer" else None

    def _signed_in(self):
        account = self.owner.tokens.get(self._token())
        return {"Authorization": f"Basic {base64.b64encode(account.encode()).decode()}"} if account else {}

    def _answer(self, status, headers, content):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _break(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True


def first(n, fault, applies=lambda method, path: True):
    """A rule: the first `n` requests that it applies to go wrong, the others do not."""
    lock, left = threading.Lock(), [n]

    def rule(method, path):
        with lock:
            if not applies(method, path) or left[0] == 0:
                return None
            left[0] -= 1
            return fault

    return rule


def always(fault, applies=lambda method, path: True):
    """A rule: whatever it applies to goes wrong."""
    return lambda method, path: fault if applies(method, path) else None


def new_run(uri, name):
    """A run in an experiment of its own; its artifacts go through the server."""
    client = mlflow.MlflowClient(uri)
    return RunTarget(run_id=client.create_run(client.create_experiment(name)).info.run_id, tracking_uri=uri)


def artifact_names(server, run_id):
    """Paths of a run's artifacts on the server's disk; image cards, whose names are random, as images/<key>/<step>."""
    roots = server.artifacts.glob(f"*/{run_id}/artifacts")  # none before the first is there
    return [name for root in roots for name in artifacts_below(root)]
