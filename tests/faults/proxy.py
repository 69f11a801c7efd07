"""A proxy in front of a tracking server, with faults chosen by a test."""

import base64
import contextlib
import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.faults.servers import reserved_port


@dataclass
class Fault:
    """How the proxy treats a request."""

    status: int = 0
    """Answer with this status; 0: forward the request."""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"no"
    delay_s: float = 0.0
    hang: bool = False
    """Never answer; break the connection when the proxy is closed."""
    reset: bool = False
    """Break the connection."""
    lose_answer: bool = False
    """Forward the request, then break the connection."""


Rule = Callable[[str, str], Fault | None]
"""(method, path) -> fault, or None."""


class FaultyProxy:
    """Forwards requests to `upstream`, unless `rule` returns a fault.

    Args:
        upstream: Port of the real server on loopback.
    """

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.rule: Rule = lambda method, path: None
        self.seen: list[tuple[float, str, str, bool]] = []
        """(time, method, path, whether there was a fault) of each request."""
        self.most_uploads = 0
        """Maximum number of simultaneous uploads."""
        self._uploads, self._counting = 0, threading.Lock()
        self.tokens: dict[str, str] = {}
        """Bearer token -> `user:password` of the upstream server, as in a single sign-on proxy.

        Other tokens get a 401.
        """
        self.closing = threading.Event()
        self._place = reserved_port()
        self.port = self._place.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._server: ThreadingHTTPServer | None = None
        self.listen()

    def listen(self):
        """Accept connections (again)."""
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = _Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), name="faulty-proxy", daemon=True).start()

    def refuse(self):
        """Refuse connections until `listen`, like a server that is down."""
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
        """Number of requests with a fault."""
        return sum(failed for *_, failed in self.seen)

    def is_put(self, path_part):
        """Condition of a rule: an upload whose path contains `path_part`."""
        return lambda method, path: method == "PUT" and path_part in path


class _Server(ThreadingHTTPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request, client_address):
        """Ignore clients that disconnect, such as killed workers."""


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
    """A rule: a fault for the first `n` requests that it applies to."""
    lock, left = threading.Lock(), [n]

    def rule(method, path):
        with lock:
            if not applies(method, path) or left[0] == 0:
                return None
            left[0] -= 1
            return fault

    return rule


def always(fault, applies=lambda method, path: True):
    """A rule: a fault for every request that it applies to."""
    return lambda method, path: fault if applies(method, path) else None
