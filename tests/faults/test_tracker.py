"""Faults of a tracking server, and their effect on uploads: a real server behind a faulty proxy."""

import json
import time

import pytest

from recon_worker.cli.main import main
from tests.faults.harness import FLUSH_S, assert_balanced, soon_s, wait_until
from tests.faults.proxy import Fault, always, first
from tests.faults.servers import artifact_names
from tests.faults.tracked import ALL, EPOCHS, assert_all_there_once, expected_files, log, spooled

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("nothing_left_but_the_server")]
slow = pytest.mark.slow


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
def test_a_temporary_fault_is_waited_out_and_nothing_is_logged_twice(server, proxy, target, worker, how):
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
def test_a_lasting_fault_costs_the_flush_timeout_and_sync_uploads_everything_later(
    server, proxy, target, worker, tmp_path, how, capsys
):
    proxy.rule = LASTING[how]
    log(worker)
    started = time.monotonic()
    worker.close(6)
    took_s = time.monotonic() - started
    proxy.rule = always(None)

    assert took_s < 6 + soon_s()
    assert_balanced(worker.stats)
    assert spooled(worker, tmp_path, target)
    assert_status_is_true(tmp_path / "spool" / target.run_id, target.run_id, capsys)
    assert main(["sync", str(tmp_path / "spool")]) == ALL, capsys.readouterr()
    assert expected_files() | {"recon_log/evolution.gif"} <= set(artifact_names(server, target.run_id))
    assert status(tmp_path / "spool", capsys) == []


def status(spool, capsys):
    """Output of `recon-worker status --json`, one entry per run."""
    capsys.readouterr()
    assert main(["status", "--json", str(spool)]) == ALL
    return json.loads(capsys.readouterr().out)


def assert_status_is_true(folder, run_id, capsys):
    """Assert that the status names the run and counts its files."""
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
def test_a_refusal_does_not_delay_the_end_and_sync_uploads_everything_later(
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


@slow  # upload/test_uploader.py tries again what was refused
def test_a_refusal_that_is_over_at_the_end_of_the_training_costs_nothing(server, proxy, target, worker, tmp_path):
    """As with an expired token: the next try would come after 30 s, and the flush does not wait for it."""
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
