"""What a tracking server can do wrong, and what becomes of the pictures: a real server behind a faulty proxy."""

import json
import os
import re
import subprocess
import threading
import time
from collections import Counter

import mlflow
import pytest

from recon_worker.cli.main import main
from recon_worker.client.recon_worker import ReconWorker
from recon_worker.pictures.artifacts import render
from recon_worker.pictures.history import History
from recon_worker.pictures.records import is_file
from recon_worker.settings import WorkerSettings
from recon_worker.spool.outbox import Outbox
from tests.faults.harness import FLUSH_S, soon_s, wait_until
from tests.faults.servers import Fault, always, artifact_names, first, new_run
from tests.samples import layout_of, log_epoch, make_scan, snapshot

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("nothing_left_but_the_server")]
EPOCHS = (1, 2)
ALL, LEFT = 0, 1
SCAN = make_scan(6, 1, truth=False)
slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def short_timeouts(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "4")


@pytest.fixture
def target(server, proxy, request):
    """A run that was made while the server was well; it is reached through the proxy."""
    made = new_run(server.uri, re.sub(r"\W", "-", request.node.name) + f"-{os.getpid()}-{time.time_ns()}")
    return type(made)(run_id=made.run_id, tracking_uri=proxy.uri)


@pytest.fixture
def worker(tmp_path, target):
    one = ReconWorker(WorkerSettings(spool_dir=tmp_path / "spool", flush_timeout_s=FLUSH_S, depth=4))
    one.launch()
    one.start(target, SCAN, layout_of(SCAN))
    yield one
    one.close(0)


def log(worker, epochs=EPOCHS):
    for epoch in epochs:
        log_epoch(worker, layout_of(SCAN), epoch)


def balanced(stats):
    return stats.submitted == stats.logged + stats.dropped + stats.spooled + stats.failed


def expected_files(epochs=EPOCHS):
    """What rendering alone, without any server, says there must be."""
    layout, names = layout_of(SCAN), set()
    for epoch in epochs:
        arrays = layout.allocate()
        arrays.fixed_filled[:] = arrays.stitch_filled[:] = True
        names |= {made.path for made in render(SCAN, snapshot(arrays, epoch), History())}
    return {name for name in names if is_file(name)}


def assert_all_there_once(server, run_id, epochs=EPOCHS):
    names = artifact_names(server, run_id)
    cards = Counter(re.sub(r"timestamp.*?(\.|compressed)", r"\1", n) for n in names if n.startswith("images/"))
    history = mlflow.MlflowClient(server.uri).get_metric_history(run_id, "recon_log/lag_s")

    assert expected_files(epochs) <= set(names)
    assert set(cards.values()) == {1}
    assert len(cards) >= 2 * len(epochs)
    assert sorted(one.step for one in history) == [10 * epoch for epoch in epochs]


def spooled(worker, tmp_path, target):
    """That everything is counted as spooled, and lies there."""
    outbox = Outbox(tmp_path / "spool" / target.run_id, create=False)
    return worker.stats.spooled == worker.stats.submitted == len(EPOCHS) and bool(list(outbox.artifacts()))


PASSING = {
    "reset": lambda: first(12, Fault(reset=True)),
    "answer-lost": lambda: first(25, Fault(lose_answer=True)),
    "500": lambda: first(12, Fault(status=500)),
    "503": lambda: first(12, Fault(status=503)),
    "429": lambda: first(6, Fault(status=429, headers={"Retry-After": "1"})),
    "hangs": lambda: first(3, Fault(hang=True)),
    "slow": lambda: always(Fault(delay_s=0.3)),
    "one-file": lambda: first(3, Fault(status=500), lambda method, path: "scales.json" in path),
    "metrics": lambda: first(6, Fault(lose_answer=True), lambda method, path: "log-batch" in path),
}
FAST = {"answer-lost"}


@pytest.mark.parametrize("how", [name if name in FAST else pytest.param(name, marks=slow) for name in PASSING])
def test_what_passes_is_waited_out_and_nothing_is_there_twice(server, proxy, target, worker, how):
    proxy.rule = PASSING[how]()
    log(worker)
    worker.close(FLUSH_S)

    assert worker.stats.logged == len(EPOCHS)
    assert proxy.failing() > 0
    assert_all_there_once(server, target.run_id)


@slow
def test_retry_after_is_obeyed(proxy, target, worker):
    path_part = "scales.json"
    proxy.rule = first(1, Fault(status=429, headers={"Retry-After": "3"}), proxy.is_put(path_part))
    log(worker, (1,))
    worker.close(FLUSH_S)

    first_s, second_s, *_ = (when for when, method, path, _ in proxy.seen if method == "PUT" and path_part in path)
    assert second_s - first_s >= 3
    assert worker.stats.logged == 1


LASTING = {
    "500": always(Fault(status=500)),
    "hangs": always(Fault(hang=True)),
    "reset": always(Fault(reset=True)),
    "429": always(Fault(status=429, headers={"Retry-After": "600"})),
}


@slow
@pytest.mark.parametrize("how", LASTING)
def test_what_lasts_costs_the_flush_timeout_and_sync_brings_everything_later(
    server, proxy, target, worker, tmp_path, how, capsys
):
    proxy.rule = LASTING[how]
    log(worker)
    started = time.monotonic()
    worker.close(6)
    took_s = time.monotonic() - started
    proxy.rule = always(None)

    assert took_s < 6 + soon_s()
    assert balanced(worker.stats)
    assert spooled(worker, tmp_path, target)
    assert_status_is_true(tmp_path / "spool" / target.run_id, target.run_id, capsys)
    assert main(["sync", str(tmp_path / "spool")]) == ALL, capsys.readouterr()
    assert expected_files() | {"recon_log/evolution.gif"} <= set(artifact_names(server, target.run_id))
    assert status(tmp_path / "spool", capsys) == []


def status(spool, capsys):
    """What `recon-worker status` says of each run."""
    capsys.readouterr()
    assert main(["status", "--json", str(spool)]) == ALL
    return json.loads(capsys.readouterr().out)


def assert_status_is_true(folder, run_id, capsys):
    """It names the run, and counts the files that lie there."""
    snapshots = list(folder.glob("raw/*.snapshot"))
    artifacts = [place for place in (folder / "outbox").rglob("*") if place.is_file()]
    (said,) = status(folder.parent, capsys)

    assert (said["run_id"], said["in_use"], said["damaged"]) == (run_id, False, 0)
    assert (said["snapshots"], said["artifacts"]) == (len(snapshots), len(artifacts))
    assert said["snapshots_bytes"] == sum(place.stat().st_size for place in snapshots)
    assert said["artifacts_bytes"] == sum(place.stat().st_size for place in artifacts) > 0


REFUSED = {
    "401": always(Fault(status=401)),
    "403": always(Fault(status=403)),
    "404": always(Fault(status=404)),
    "401-for-uploads": always(Fault(status=401), lambda method, path: method == "PUT"),
}


@pytest.mark.parametrize("how", ["401", *(pytest.param(name, marks=slow) for name in list(REFUSED)[1:])])
def test_a_refusal_does_not_delay_the_end_and_sync_brings_everything_later(
    server, proxy, target, worker, tmp_path, how, caplog
):
    proxy.rule = REFUSED[how]
    log(worker)
    wait_until(lambda: worker.to_render == 0)
    started = time.monotonic()
    worker.close(FLUSH_S)
    took_s = time.monotonic() - started
    proxy.rule = always(None)

    assert took_s < 3 * soon_s()
    assert len(proxy.seen) < 60
    assert spooled(worker, tmp_path, target)
    assert f"recon-worker sync {tmp_path}/spool/{target.run_id}" in caplog.text
    assert main(["sync", str(tmp_path / "spool")]) == ALL
    assert expected_files() <= set(artifact_names(server, target.run_id))


def is_put(method, path):
    return method == "PUT"


def sign_in_page(method, path):
    """Uploads are redirected to a page that is there."""
    if path == "/sign-in":
        return Fault(status=200, headers={"Content-Type": "text/html"}, body=b"<html>")
    return Fault(status=302, headers={"Location": "/sign-in"}) if method == "PUT" else None


ACKNOWLEDGED = {
    "stores-nothing": (always(Fault(status=200, body=b"{}"), is_put), "and it is not there"),
    "redirect": (sign_in_page, "answered with 302"),
    "page": (
        always(Fault(status=200, headers={"Content-Type": "text/html"}), is_put),
        "with 200 and a web page",
    ),
}


@pytest.mark.parametrize(
    "how", ["stores-nothing", *(pytest.param(name, marks=slow) for name in list(ACKNOWLEDGED)[1:])]
)
def test_what_is_acknowledged_and_not_stored_is_kept_and_sync_brings_it_later(
    server, proxy, target, worker, tmp_path, how, caplog
):
    proxy.rule, said = ACKNOWLEDGED[how]
    log(worker)
    wait_until(lambda: worker.to_render == 0)
    started = time.monotonic()
    worker.close(FLUSH_S)
    took_s = time.monotonic() - started

    assert took_s < 5 * soon_s()
    assert said in caplog.text
    assert spooled(worker, tmp_path, target)
    assert main(["sync", str(tmp_path / "spool")]) == LEFT
    proxy.rule = always(None)
    assert main(["sync", str(tmp_path / "spool")]) == ALL
    assert expected_files() <= set(artifact_names(server, target.run_id))


def test_where_artifacts_cannot_be_listed_that_is_said_once_and_what_logged_means(
    server, proxy, target, worker, caplog
):
    proxy.rule = always(Fault(status=403), lambda method, path: method == "GET" and "/artifacts?path=" in path)
    log(worker)
    worker.close(FLUSH_S)

    assert worker.stats.logged == len(EPOCHS)
    assert caplog.text.count('So "logged" means that the server has acknowledged each upload') == 1
    assert expected_files() <= set(artifact_names(server, target.run_id))


def test_a_file_that_is_too_large_for_the_server_holds_no_other_up(server, proxy, target, worker, tmp_path, caplog):
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
    assert caplog.text.count("does not take recon_log/gallery.html") == 1
    assert main(["sync", str(tmp_path / "spool")]) == ALL
    assert expected_files() <= set(artifact_names(server, target.run_id))


def test_a_refusal_that_is_over_at_the_end_of_the_training_costs_nothing(server, proxy, target, worker, tmp_path):
    """As when a token had expired: the next try would come after 30 s, and the flush does not wait for that."""
    proxy.rule = always(Fault(status=401))
    log(worker)
    wait_until(lambda: worker._queue.refused and worker.to_render == 0)
    proxy.rule = always(None)
    worker.close(FLUSH_S)

    assert worker.stats.logged == len(EPOCHS)
    assert_all_there_once(server, target.run_id)


@slow
def test_a_refusal_that_ends_during_the_training_is_noticed(server, proxy, target, worker):
    proxy.rule = always(Fault(status=401))
    log(worker)
    wait_until(lambda: worker._queue.refused and worker.to_render == 0)
    proxy.rule = always(None)

    wait_until(lambda: worker.stats.logged == len(EPOCHS))
    assert_all_there_once(server, target.run_id)


@slow
def test_a_run_deleted_meanwhile_keeps_the_rest_in_the_spool_and_a_restored_one_gets_it(
    server, target, worker, tmp_path, caplog
):
    client = mlflow.MlflowClient(server.uri)
    log(worker, (1,))
    wait_until(lambda: worker.stats.logged == 1)
    client.delete_run(target.run_id)
    log(worker, (2,))
    wait_until(lambda: worker.to_render == 0)
    started = time.monotonic()
    worker.close(FLUSH_S)

    assert time.monotonic() - started < 3 * soon_s()
    assert (worker.stats.logged, worker.stats.spooled) == (1, 1)
    assert f"run {target.run_id} is deleted" in caplog.text
    client.restore_run(target.run_id)
    assert main(["sync", str(tmp_path / "spool")]) == ALL
    assert expected_files() <= set(artifact_names(server, target.run_id))


@pytest.mark.parametrize("when", ["from-the-start", pytest.param("in-between", marks=slow)])
def test_a_server_that_comes_back_gets_everything_without_the_user_doing_anything(
    server, proxy, target, worker, when, tmp_path
):
    if when == "in-between":
        log(worker, (1,))
        wait_until(lambda: worker.stats.logged == 1)
    proxy.refuse()
    log(worker, [epoch for epoch in EPOCHS if epoch > worker.stats.submitted])
    wait_until(lambda: worker.to_render == 0)
    threading.Timer(2.0, proxy.listen).start()
    worker.close(FLUSH_S)

    assert worker.stats.logged == len(EPOCHS)
    assert_all_there_once(server, target.run_id)
    assert not (tmp_path / "spool" / target.run_id).exists()


@slow
@pytest.mark.timeout(300)
def test_a_real_server_that_is_killed_for_60_s_has_everything_in_the_end(server, target, worker):
    log(worker, (1,))
    wait_until(lambda: worker.stats.logged == 1)
    server.kill()
    restart = threading.Timer(60, server.start)
    restart.start()
    log(worker, (2, 3))
    worker.close(150)
    restart.join()

    assert worker.stats.logged == 3
    assert_all_there_once(server, target.run_id, (1, 2, 3))


@slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system takes root")
def test_a_full_disk_on_the_servers_side_keeps_everything_in_the_spool(server, proxy, target, worker, tmp_path):
    number = mlflow.MlflowClient(server.uri).get_run(target.run_id).info.experiment_id
    place = server.artifacts / number
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", place], check=True)
    try:
        log(worker)
        worker.close(6)
        left = spooled(worker, tmp_path, target)
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)

    assert left
    assert main(["sync", str(tmp_path / "spool")]) == ALL
    assert balanced(worker.stats)
