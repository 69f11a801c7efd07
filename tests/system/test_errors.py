"""The root cause of an error is reported however libraries wrap it; shortages of the machine are recognised."""

import contextlib
import errno
import http.server
import os
import resource
import ssl
import subprocess
import sys
import threading

import pytest
import requests
from mlflow import MlflowClient

from recon_worker.system.errors import is_shortage, reason

pytestmark = pytest.mark.timeout(60)
LONG = "/" + "x" * 500


@pytest.fixture
def tls_server(tmp_path):
    """Address of a server with a self-signed certificate."""
    files = ["-keyout", tmp_path / "key", "-out", tmp_path / "certificate"]
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", *files]
    try:
        subprocess.run(words, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.handle_error = lambda *_: None
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"https://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def raised(action):
    try:
        action()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_a_long_error_without_a_cause_is_described_once():
    said = reason(RuntimeError(f"start {LONG} end"))

    assert said.startswith("RuntimeError: start /")
    assert said.count("start") == said.count("end") == 1


def test_a_certificate_that_is_not_trusted_is_named_however_long_the_address_is(tls_server, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    said = reason(raised(lambda: MlflowClient(f"{tls_server}{LONG}").get_run("0" * 32)))

    assert "certificate verify failed" in said
    assert len(said) < 700


def test_a_host_that_is_not_known_is_named_however_long_the_address_is():
    said = reason(raised(lambda: requests.get(f"http://nowhere.invalid{LONG}", timeout=5)))

    assert "NameResolutionError" in said
    assert "nowhere.invalid" in said


@pytest.mark.parametrize("how", ["cause", "context", "argument", "reason"])
def test_the_root_cause_comes_first_unless_the_text_contains_it(how):
    def fail(words):
        try:
            raise ValueError("the disk")
        except ValueError as error:
            if how == "context":
                raise RuntimeError(words)  # noqa: B904
            if how == "cause":
                raise RuntimeError(words) from error
            outer = RuntimeError(words, error) if how == "argument" else RuntimeError(words)
            outer.reason = error if how == "reason" else None
            raise outer from None

    assert reason(raised(lambda: fail("it failed"))).startswith(
        "RuntimeError: ('it failed'" if how == "argument" else "ValueError: the disk (RuntimeError: it failed)"
    )
    assert reason(raised(lambda: fail("it failed: the disk"))).startswith("RuntimeError: ")


def test_a_reason_is_one_line_without_credentials():
    assert (
        reason(OSError("line 1\n  line 2 postgresql://me:canary@host/db"))
        == "OSError: line 1 line 2 postgresql://host/db"
    )
    assert reason(TimeoutError()) == "TimeoutError"


def test_a_cycle_of_errors_ends():
    first, second = OSError("first"), OSError("second")
    first.__cause__, second.__cause__ = second, first
    with contextlib.suppress(RecursionError):
        assert reason(first).startswith("OSError: ")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN])
def test_a_shortage_is_recognised_even_as_a_cause(number):
    shortage = OSError(number, os.strerror(number))
    outer = ValueError("cannot read")
    outer.__cause__ = shortage

    assert is_shortage(shortage)
    assert is_shortage(outer)


@pytest.mark.parametrize("error", [ValueError("shape"), OSError(errno.ENOENT, "gone"), RuntimeError("other"), None])
def test_other_errors_are_no_shortage(error):
    assert not is_shortage(error)


def test_an_array_larger_than_memory_is_a_shortage():
    code = (
        "import numpy\nfrom recon_worker.system.errors import is_shortage\n"
        "try: numpy.zeros(2**46)\nexcept Exception as error: print(is_shortage(error))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.strip() == "True"


def test_running_out_of_descriptors_is_a_shortage():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    code = (
        "import os, resource\nfrom recon_worker.system.errors import is_shortage\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (8, {hard}))\n"
        "try:\n    while True: os.dup(1)\nexcept OSError as error: print(is_shortage(error))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.strip() == "True"
