"""A spool may direct a sync only to the servers of its own user and to MLflow databases."""

import json
import os
import shutil
import socket
import sqlite3

import pytest

from recon_worker.cli.main import main
from recon_worker.snapshot.artifact import Artifact
from recon_worker.spool.outbox import Outbox
from recon_worker.spool.run_target import RunTarget
from tests.samples import make_scan

pytestmark = pytest.mark.timeout(100)
DONE, LEFT, ERROR = range(3)


@pytest.fixture
def stranger():
    """A listening socket that shows whether a client has connected."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


@pytest.fixture
def secret_key(monkeypatch, tmp_path):
    """Path of the user's key."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "recon-worker" / "key"


def uri_of(server, host="127.0.0.1"):
    return f"http://{host}:{server.getsockname()[1]}"


def nobody_came(server):
    with pytest.raises(BlockingIOError):
        server.accept()
    return True


def change(outbox, **values):
    """Edit run.json, as a stranger could."""
    place = outbox.folder / "run.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), **values}))


def spool_for(tmp_path, uri):
    """Create a spool with one waiting picture."""
    outbox = Outbox(tmp_path / "spool" / "abc")
    outbox.describe(RunTarget(run_id="abc", tracking_uri=uri), make_scan())
    outbox.put(Artifact("epoch_01/summary.png", b"x"))
    return outbox


CREDENTIALS = ["MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_AUTH", "DATABRICKS_TOKEN"]


@pytest.mark.parametrize("name", [*CREDENTIALS, "MLFLOW_TRACKING_AWS_SIGV4", "MLFLOW_TRACKING_CLIENT_CERT_PATH"])
def test_credentials_go_to_no_server_that_only_a_strangers_spool_names(tmp_path, stranger, monkeypatch, caplog, name):
    outbox = spool_for(tmp_path, "http://127.0.0.1:9")
    change(outbox, tracking_uri=uri_of(stranger))
    monkeypatch.setenv(name, "true")

    assert main(["sync", str(outbox.folder)]) == ERROR

    assert nobody_came(stranger)
    assert f"the server {uri_of(stranger)}" in caplog.text
    assert f"({name})" in caplog.text
    assert f"--tracking-uri {uri_of(stranger)}" in caplog.text
    assert list(outbox.artifacts())


def test_credentials_in_mlflows_own_file_count_too(tmp_path, stranger, monkeypatch):
    outbox = spool_for(tmp_path, "http://127.0.0.1:9")
    change(outbox, tracking_uri=uri_of(stranger))
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow" / "credentials").write_text("[mlflow]\nmlflow_tracking_username = me\n")
    monkeypatch.setenv("HOME", str(tmp_path))

    assert main(["sync", str(outbox.folder)]) == ERROR
    assert nobody_came(stranger)


@pytest.mark.parametrize(
    "named", ["postgresql://h/db", "mysql+pymysql://h/db", "file:///tmp/x", "databricks", "sqlit:"]
)
def test_what_is_no_web_server_needs_consent_even_without_credentials(tmp_path, caplog, named):
    outbox = spool_for(tmp_path, "http://127.0.0.1:9")
    change(outbox, tracking_uri=named)

    assert main(["sync", str(outbox.folder)]) == ERROR
    assert f"it names {named}" in caplog.text


@pytest.mark.parametrize("how", ["--tracking-uri", "MLFLOW_TRACKING_URI", "no credentials", "own"])
def test_a_server_that_the_user_agrees_to_is_used(tmp_path, stranger, monkeypatch, how):
    uri = uri_of(stranger)
    outbox = spool_for(tmp_path, uri)
    if how != "own":
        change(outbox, signature="")
    if how != "no credentials":
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "canary")
    if how == "MLFLOW_TRACKING_URI":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{uri.upper()}/path")
    words = ["--tracking-uri", uri] if how == "--tracking-uri" else []

    assert main(["sync", str(outbox.folder), "--timeout", "0.5", *words]) == LEFT
    stranger.accept()[0].close()


@pytest.mark.parametrize("uri", ["{}@h/", "http://127.0.0.1:80{}", "{}\\@h", "http://h\\@127.0.0.1"])
def test_an_address_that_can_be_read_in_two_ways_is_not_the_users(tmp_path, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "canary")
    outbox = spool_for(tmp_path, "http://127.0.0.1:9")
    change(outbox, tracking_uri=uri.format("http://127.0.0.1"))

    assert main(["sync", str(outbox.folder)]) == ERROR


def test_status_and_dry_run_say_that_a_sync_would_refuse(tmp_path, stranger, monkeypatch, capsys):
    outbox = spool_for(tmp_path, "http://127.0.0.1:9")
    change(outbox, tracking_uri=uri_of(stranger))
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "canary")

    assert main(["status", str(outbox.folder)]) == DONE
    assert "sync refuses: it names the server" in capsys.readouterr().out
    assert main(["sync", str(outbox.folder), "--dry-run"]) == ERROR
    assert "sync refuses" in capsys.readouterr().out
    assert main(["sync", str(outbox.folder), "--dry-run", "--tracking-uri", uri_of(stranger)]) == DONE
    assert "sync refuses" not in capsys.readouterr().out
    assert nobody_came(stranger)


def test_a_signed_spool_that_was_copied_elsewhere_is_the_users(tmp_path):
    outbox = spool_for(tmp_path, "http://127.0.0.1:9")
    copy = tmp_path / "kept" / "spool"
    shutil.copytree(outbox.folder.parent, copy)

    assert Outbox(copy / outbox.folder.name, create=False).target_and_owner()[1]


@pytest.mark.parametrize("harm", ["chmod", "owner", "link", "short"])
def test_a_key_that_others_could_know_signs_nothing_and_proves_nothing(tmp_path, secret_key, harm):
    if harm == "owner" and os.geteuid() != 0:
        pytest.skip("needs root, to give the key to somebody else")
    outbox = spool_for(tmp_path, "http://127.0.0.1:9")
    assert (secret_key.stat().st_mode & 0o777, len(secret_key.read_bytes())) == (0o600, 32)
    if harm == "chmod":
        secret_key.chmod(0o640)
    elif harm == "owner":
        os.chown(secret_key, 65534, -1)
    elif harm == "link":
        secret_key.symlink_to(secret_key.rename(tmp_path / "elsewhere"))
    else:
        secret_key.write_bytes(b"short")

    assert not outbox.target_and_owner()[1]
    assert "signature" not in json.loads((spool_for(tmp_path, "http://h").folder / "run.json").read_text())


def test_where_no_key_can_be_made_spools_are_written_unsigned(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    outbox = spool_for(tmp_path, "http://127.0.0.1:9")

    assert outbox.target_and_owner() == (RunTarget(run_id="abc", tracking_uri="http://127.0.0.1:9"), False)


@pytest.mark.parametrize("options", ["", "?timeout=5"])
@pytest.mark.parametrize("scheme", ["sqlite", "sqlite+pysqlite"])
def test_a_database_that_is_not_mlflows_is_left_as_it_is(tmp_path, caplog, scheme, options):
    database = tmp_path / "mine #1.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE runs (mine)")
    connection.close()
    before = database.read_bytes()
    outbox = spool_for(tmp_path, f"{scheme}:///{database}{options}")

    assert main(["sync", str(outbox.folder)]) == LEFT

    assert "is not an MLflow database: table alembic_version is missing" in caplog.text
    assert database.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine #1.db", "spool"]


@pytest.mark.parametrize("content", [b"", b"no database at all" * 99])
def test_a_file_that_is_no_database_is_left_as_it_is(tmp_path, capsys, content):
    file = tmp_path / "notes.txt"
    file.write_bytes(content)
    outbox = spool_for(tmp_path, f"sqlite:///{file}")

    assert main(["status", str(outbox.folder)]) == DONE
    assert f"sync refuses: {file} is not a" in capsys.readouterr().out
    assert main(["sync", str(outbox.folder)]) == LEFT
    assert file.read_bytes() == content
