"""`recon-worker sync` on snapshots that may have killed a worker: a fatal one does not stop the others."""

import functools
import os
import signal
import subprocess
import time
from dataclasses import replace

import pytest

from recon_worker.cli.main import main
from recon_worker.spool.outbox import Outbox
from tests.cli.spools import DONE, ERROR, LEFT, add_raw, command, make_spool
from tests.faults.harness import ALWAYS, epochs, inject, nothing_left_behind, wait_until  # noqa: F401
from tests.samples import make_run, make_scan

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("nothing_left_behind")]
slow = pytest.mark.slow


@pytest.fixture
def outbox(tracking, tmp_path):
    return make_spool(tmp_path / "spool", make_run(tracking), raw=(1, 2, 3), rendered=())


@pytest.fixture
def fault(inject):  # noqa: F811
    return functools.partial(inject, program="cli.spool_renderer")


@pytest.mark.parametrize("how", ["segv", pytest.param("kill", marks=slow), pytest.param("exit", marks=slow)])
def test_a_snapshot_that_kills_what_renders_it_is_set_aside_and_named_and_the_others_go_through(
    tracking, outbox, fault, caplog, how
):
    committed = fault("read", how, ALWAYS, epoch=2)

    assert main(["sync", str(outbox.folder)]) == LEFT

    (kept,) = outbox.damaged()
    assert committed() == 2
    assert kept.name == "00000002_epoch_2.snapshot.damaged"
    assert f"2 processes died while rendering it ({ENDS[how]}). The snapshot is kept as raw/{kept.name}" in caplog.text
    assert epochs(tracking) == {1, 3}
    assert main(["sync", str(outbox.folder)]) == LEFT
    assert committed() == 2


ENDS = {"segv": "killed by SIGSEGV", "kill": "killed by SIGKILL, often out of memory", "exit": "exit code 7"}


@slow
@pytest.mark.parametrize("where", ["stitch", "outbox", "render"])
def test_a_process_that_dies_once_costs_nothing(tracking, outbox, fault, caplog, where):
    committed = fault(where, "kill")

    assert main(["sync", str(outbox.folder)]) == DONE

    assert committed() == 1
    assert "the process that rendered it died (killed by SIGKILL, often out of memory)" in caplog.text
    assert epochs(tracking) == {1, 2, 3}
    assert not outbox.folder.exists()


def test_after_a_failed_picture_the_next_epoch_makes_the_tiles_of_the_truth_again(tracking, tmp_path, fault):
    scan, target = replace(make_scan(n_samples=12, n_fixed=1), tiles_from_px=20), make_run(tracking)
    outbox = Outbox(tmp_path / "spool" / target.run_id)
    outbox.describe(target, scan)
    for epoch in (1, 2, 3):
        add_raw(outbox, scan, epoch)
    fault("render", "raise")

    main(["sync", str(outbox.folder)])

    cut = [name.partition("/")[0] for name in sorted(tracking.files()) if name.endswith("stitched/amp_gt.dzi")]
    assert cut == ["epoch_01", "epoch_02"]


def test_a_process_that_cannot_start_is_no_snapshots_fault(tracking, outbox, fault, caplog):
    fault("history", "exit")

    assert main(["sync", str(outbox.folder)]) == ERROR

    assert "the process that renders cannot start (exit code 7)" in caplog.text
    assert len(outbox.raw()) == 3
    assert main(["sync", str(outbox.folder)]) == DONE
    assert epochs(tracking) == {1, 2, 3}


@slow
def test_a_process_that_hangs_is_replaced(tracking, outbox, fault, monkeypatch, caplog):
    monkeypatch.setattr("recon_worker.cli.spool_renderer._SILENCE_S", 25)
    fault("stitch", "hang")

    assert main(["sync", str(outbox.folder)]) == DONE

    assert "no answer within 25 s: killed by this program" in caplog.text
    assert epochs(tracking) == {1, 2, 3}


@slow
def test_a_death_while_rendering_the_pictures_of_the_run_costs_only_these(tracking, outbox, fault, caplog):
    fault("finish", "segv")

    assert main(["sync", str(outbox.folder)]) == DONE

    died = "the process that rendered them died (killed by SIGSEGV)"
    assert f"the pictures of the whole run cannot be rendered: {died}" in caplog.text
    assert epochs(tracking) == {1, 2, 3}


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), pytest.param(signal.SIGINT, LEFT, marks=slow)]
)
def test_the_rendering_process_ends_with_the_sync_that_started_it(tracking, outbox, fault, number, code):
    """Even if it hangs; the lock is then free for the next sync."""
    committed = fault("stitch", "hang")
    with subprocess.Popen(command("sync", outbox.folder), stderr=subprocess.PIPE) as first:
        try:
            wait_until(committed)
            began = time.monotonic()
            os.kill(first.pid, number)
            assert first.wait(30) == code
        finally:
            first.kill()

    assert main(["sync", str(outbox.folder)]) == DONE
    assert time.monotonic() - began < 100
    assert epochs(tracking) == {1, 2, 3}
