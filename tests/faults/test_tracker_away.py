"""A tracking server, or a run on it, that disappears and returns."""

import os
import subprocess
import threading
import time

import mlflow
import pytest

from recon_worker.cli.main import main
from tests.faults.harness import FLUSH_S, assert_balanced, soon_s, wait_until
from tests.faults.servers import artifact_names
from tests.faults.tracked import ALL, EPOCHS, assert_all_there_once, expected_files, log, spooled

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("nothing_left_but_the_server")]
slow = pytest.mark.slow


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
    assert_balanced(worker.stats)
