"""A tracking server that stores less than it acknowledges, or does not accept every file."""

import time

import pytest

from recon_worker.cli.main import main
from tests.faults.harness import FLUSH_S, soon_s, wait_until
from tests.faults.proxy import Fault, always
from tests.faults.servers import artifact_names
from tests.faults.tracked import ALL, EPOCHS, LEFT, expected_files, log, spooled

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("nothing_left_but_the_server")]
slow = pytest.mark.slow


def is_put(method, path):
    return method == "PUT"


def sign_in_page(method, path):
    """Redirect uploads to a page that exists."""
    if path == "/sign-in":
        return Fault(status=200, headers={"Content-Type": "text/html"}, body=b"<html>")
    return Fault(status=302, headers={"Location": "/sign-in"}) if method == "PUT" else None


ACKNOWLEDGED = {
    "stores-nothing": (always(Fault(status=200, body=b"{}"), is_put), "but it is not there"),
    "redirect": (sign_in_page, "answered with 302"),
    "page": (
        always(Fault(status=200, headers={"Content-Type": "text/html"}), is_put),
        "answered with 200 and a web page",
    ),
}


@slow  # upload/test_uploader.py has a file that is not there after its upload
@pytest.mark.parametrize("how", ACKNOWLEDGED)
def test_what_is_acknowledged_but_not_stored_is_kept_and_sync_uploads_it_later(
    server, proxy, target, worker, tmp_path, how, caplog
):
    proxy.rule, said = ACKNOWLEDGED[how]
    log(worker, (1,))
    wait_until(lambda: worker.to_render == 0)
    started = time.monotonic()
    worker.close(FLUSH_S)
    took_s = time.monotonic() - started

    assert took_s < 5 * soon_s()
    assert said in caplog.text
    assert spooled(worker, tmp_path, target, (1,))
    assert main(["sync", str(tmp_path / "spool")]) == LEFT
    proxy.rule = always(None)
    assert main(["sync", str(tmp_path / "spool")]) == ALL
    assert expected_files((1,)) <= set(artifact_names(server, target.run_id))


def test_that_artifacts_cannot_be_listed_is_reported_once_with_the_meaning_of_logged(
    server, proxy, target, worker, caplog
):
    proxy.rule = always(Fault(status=403), lambda method, path: method == "GET" and "/artifacts?path=" in path)
    log(worker)
    worker.close(FLUSH_S)

    assert worker.stats.logged == len(EPOCHS)
    assert caplog.text.count('So "logged" means that the server has acknowledged each upload') == 1
    assert expected_files() <= set(artifact_names(server, target.run_id))


def test_a_file_that_is_too_large_for_the_server_delays_no_other(server, proxy, target, worker, tmp_path, caplog):
    proxy.rule = always(Fault(status=413), lambda method, path: method == "PUT" and path.endswith("gallery.html"))
    log(worker)
    started = time.monotonic()
    worker.close(FLUSH_S)
    took_s = time.monotonic() - started
    there = set(artifact_names(server, target.run_id))
    proxy.rule = always(None)

    assert took_s < FLUSH_S / 2
    assert expected_files() - there == {"recon_log/gallery.html"}
    assert {"recon_log/evolution.gif", "recon_log/events.csv"} <= there
    assert (worker.stats.spooled, worker.stats.submitted) == (len(EPOCHS), len(EPOCHS))
    assert caplog.text.count("does not accept recon_log/gallery.html") == 1
    assert main(["sync", str(tmp_path / "spool")]) == ALL
    assert expected_files() <= set(artifact_names(server, target.run_id))
