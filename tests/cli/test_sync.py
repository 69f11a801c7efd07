"""`recon-worker sync` on spools, with a real MLflow store and dead servers."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import mlflow
import pytest

from recon_worker.cli.main import main
from recon_worker.pictures.artifacts import render
from recon_worker.pictures.history import History
from recon_worker.spool.outbox import Outbox
from recon_worker.spool.run_target import RunTarget
from tests.cli.spools import (
    BUSY,
    DONE,
    LEFT,
    PER_EPOCH,
    WAITING,
    add_raw,
    command,
    make_spool,
    recon_worker,
    recon_worker_process,
)
from tests.faults.harness import soon_s
from tests.samples import make_run, make_scan

pytestmark = pytest.mark.timeout(200)


def test_sync_renders_and_uploads_everything_and_removes_the_folder(tracking, outbox):
    done = recon_worker("sync", outbox.folder)

    assert done.returncode == DONE, done.stderr
    per_epoch = Counter(name.split("/")[0] for name in tracking.files())
    assert per_epoch == {"epoch_01": PER_EPOCH, "epoch_02": PER_EPOCH, "epoch_03": PER_EPOCH, "recon_log": 3}
    assert len(tracking.cards()) == 3 * 3
    logged = mlflow.MlflowClient(tracking.uri).get_metric_history(outbox.folder.name, "recon/stitched/coverage")
    assert sorted(metric.step for metric in logged) == [10, 20, 30]
    assert list(outbox.folder.parent.iterdir()) == []
    assert f"2 snapshots rendered, {3 * WAITING + 3} artifacts uploaded; nothing is left" in done.stdout


@pytest.mark.slow
def test_sync_of_an_empty_spool_reports_that_nothing_is_left(outbox):
    spool = outbox.folder.parent
    first, second, seen = (recon_worker(*words, spool) for words in (["sync"], ["sync"], ["status"]))

    assert (first.returncode, second.returncode, seen.returncode) == (DONE, DONE, DONE)
    assert second.stdout == seen.stdout == "nothing is left\n"


@pytest.mark.parametrize("others", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_complete_sync_may_be_repeated(outbox, capsys, others):
    folder = outbox.folder
    for number in range(others):
        make_spool(folder.parent, RunTarget(run_id=f"other{number}", tracking_uri="http://127.0.0.1:9"))
    assert main(["sync", str(folder)]) == DONE
    capsys.readouterr()

    assert main(["sync", str(folder)]) == main(["sync", str(folder), "--dry-run"]) == DONE
    assert main(["status", str(folder)]) == main(["render", str(folder), "--out", "out"]) == DONE
    assert capsys.readouterr().out == 4 * "nothing is left\n"


def test_sync_renders_the_same_pictures_as_the_worker(tracking, target, tmp_path):
    outbox, scan = make_spool(tmp_path / "spool", target, truth=True), make_scan(n_samples=12, n_fixed=1)
    one = add_raw(Outbox(outbox.folder.parent / "other"), scan, 1)
    made = list(render(scan, one, History.of_files(outbox.history())))
    expected = {one.path: one.data for one in made if one.path.startswith("epoch_")}

    assert main(["sync", str(outbox.folder)]) == DONE

    assert {name: tracking.path(name).read_bytes() for name in expected} == expected


@pytest.mark.slow
def test_sync_uploads_all_runs_of_a_spool(tracking, target, outbox, mlflow_database, tmp_path):
    other = type(tracking)(mlflow_database, tracking.experiment + "b", tmp_path / "other")
    make_spool(tmp_path / "spool", make_run(other))

    assert recon_worker("sync", tmp_path / "spool").returncode == DONE
    assert len(tracking.files()) == len(other.files()) == 3 * PER_EPOCH + 3


@pytest.mark.slow
def test_a_dead_server_costs_the_timeout_and_nothing_is_lost(tracking, target, tmp_path, dead_server):
    outbox = make_spool(tmp_path, replace(target, tracking_uri=dead_server))
    started = time.monotonic()
    done = recon_worker("sync", outbox.folder, "--timeout", 2)

    assert time.monotonic() - started < 2 + 2 * soon_s()
    assert done.returncode == LEFT
    assert "the time limit is reached (--timeout)" in done.stderr
    assert len(list(outbox.artifacts())) == 3 * WAITING + 3

    again = recon_worker("sync", outbox.folder, "--tracking-uri", tracking.uri)

    assert again.returncode == DONE, again.stderr
    assert len(tracking.files()) == 3 * PER_EPOCH + 3
    assert not outbox.folder.exists()


def test_a_password_in_the_environment_is_never_shown(target, tmp_path, dead_server):
    outbox = make_spool(tmp_path, replace(target, tracking_uri=dead_server), raw=())
    secret = dead_server.replace("//", "//me:canary@")
    done = recon_worker("sync", outbox.folder, "--timeout", 1, MLFLOW_TRACKING_URI=secret)

    assert done.returncode == LEFT
    assert dead_server in done.stderr
    assert "canary" not in done.stdout + done.stderr


def test_a_silent_server_costs_the_timeout_too(target, tmp_path, silent_server):
    outbox = make_spool(tmp_path, replace(target, tracking_uri=silent_server), raw=())
    started = time.monotonic()
    done = recon_worker("sync", outbox.folder, "--timeout", 1)

    assert time.monotonic() - started < 1 + 2 * soon_s()
    assert done.returncode == LEFT
    assert len(list(outbox.artifacts())) == WAITING + 2


def test_a_run_that_the_server_does_not_know_is_reported_at_once(tracking, target, tmp_path):
    outbox = make_spool(tmp_path, replace(target, run_id="0" * 32), raw=())
    done = recon_worker("sync", outbox.folder)

    assert done.returncode == LEFT
    assert "retrying does not help" in done.stderr
    assert "0" * 32 in done.stderr
    assert len(list(outbox.artifacts())) == WAITING + 2


def test_a_deleted_run_keeps_its_spool(tracking, target, outbox, caplog):
    mlflow.MlflowClient(tracking.uri).delete_run(target.run_id)

    assert main(["sync", str(outbox.folder)]) == LEFT

    assert f"run {target.run_id} is deleted" in caplog.text
    assert len(list(outbox.artifacts())) == 3 * WAITING + 3


def test_a_missing_database_is_reported_and_not_created(tmp_path, caplog):
    absent = tmp_path / "absent.db"
    outbox = make_spool(tmp_path / "spool", RunTarget(run_id="abc", tracking_uri=f"sqlite:///{absent}"))

    assert main(["sync", str(outbox.folder)]) == LEFT

    assert f"there is no database {absent}" in caplog.text
    assert not absent.exists()


@pytest.mark.slow
def test_a_database_whose_uri_has_options_is_found(tracking, outbox):
    done = recon_worker("sync", outbox.folder, "--tracking-uri", f"{tracking.uri}?timeout=30")

    assert done.returncode == DONE, done.stderr
    assert len(tracking.files()) == 3 * PER_EPOCH + 3


@pytest.mark.slow
def test_a_second_sync_reports_that_the_spool_is_in_use(outbox):
    code = "import sys; from pathlib import Path; from recon_worker.spool.lock import take_lock\n"
    code += "take_lock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", code, str(outbox.folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        second = recon_worker_process("sync", outbox.folder)
        (seen,) = json.loads(recon_worker_process("status", outbox.folder, "--json").stdout)
        holder.kill()

    assert second.returncode == BUSY
    assert "in use by a training run or by another sync" in second.stderr
    assert seen["in_use"] is True
    assert recon_worker("sync", outbox.folder).returncode == DONE


def test_two_syncs_at_once_upload_everything_once(tracking, outbox):
    with subprocess.Popen(command("sync", outbox.folder)) as other:
        here = recon_worker("sync", outbox.folder)

    assert DONE in (codes := {here.returncode, other.returncode})
    assert codes <= {DONE, BUSY}
    assert len(tracking.files()) == 3 * PER_EPOCH + 3
    assert len(tracking.cards()) == len(set(tracking.cards())) == 3 * 3
    logged = mlflow.MlflowClient(tracking.uri).get_metric_history(outbox.folder.name, "recon/stitched/coverage")
    assert sorted(metric.step for metric in logged) == [10, 20, 30]


def test_a_killed_sync_is_completed_by_the_next_one(tracking, outbox):
    with subprocess.Popen(command("sync", outbox.folder)) as first:
        deadline = time.monotonic() + 30
        while len(outbox.raw()) == 2 and time.monotonic() < deadline:
            time.sleep(0.005)
        first.send_signal(signal.SIGKILL)

    assert recon_worker("sync", outbox.folder).returncode == DONE
    assert len(tracking.files()) == 3 * PER_EPOCH + 3
    assert list(outbox.folder.parent.iterdir()) == []


def test_a_sync_in_a_removed_working_directory_uploads_everything(tracking, tmp_path, monkeypatch):
    target = make_run(tracking)
    outbox = make_spool(tmp_path / "spool", target, raw=(), rendered=(1,))
    unseen = f"{target.tracking_uri}?timeout=60"  # no client of this process has asked for the working directory
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()

    assert main(["sync", "--timeout", "5", "--tracking-uri", unseen, str(outbox.folder)]) == DONE
