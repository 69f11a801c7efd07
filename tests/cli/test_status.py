"""`recon-worker status` and the dry run of `sync` count waiting files and change nothing."""

import itertools
import json
import os
import threading
import time

import pytest

from recon_worker.cli.main import main
from recon_worker.cli.status import status
from recon_worker.snapshot.artifact import Artifact
from recon_worker.spool.outbox import Outbox, total_bytes
from recon_worker.spool.run_target import RunTarget
from tests.cli.spools import DONE, ERROR, WAITING, files, make_spool, recon_worker

pytestmark = pytest.mark.timeout(200)


def test_dry_run_and_status_change_nothing(outbox):
    before = files(outbox.folder)
    dry, seen = recon_worker("sync", outbox.folder, "--dry-run"), recon_worker("status", outbox.folder)

    assert (dry.returncode, seen.returncode) == (DONE, DONE)
    assert "2 snapshots to render" in dry.stdout
    assert f"{WAITING + 2} artifacts to upload" in dry.stdout
    assert files(outbox.folder) == before


def test_status_reads_a_spool_while_it_is_filled_and_emptied(outbox):
    finished = threading.Event()

    def work():
        for number in itertools.cycle(range(4, 50)):
            name = f"epoch_{number:02d}/patch_00/amp_pred.png"
            outbox.put(Artifact(name, b"png"))
            outbox.remove(name, outbox.version(name))
            if finished.is_set():
                return

    writer = threading.Thread(target=work)
    writer.start()
    try:
        seen = [status(outbox.folder) for _ in range(100)]
    finally:
        finished.set()
        writer.join()

    assert {one.snapshots for one in seen} == {2}
    assert {one.artifacts for one in seen} <= {WAITING + 2, WAITING + 3}


def test_status_counts_what_waits_and_shows_no_credentials(tmp_path, capsys):
    outbox = make_spool(tmp_path, RunTarget(run_id="abc", tracking_uri="https://me:canary@host.example"))
    (outbox.folder / "run.json").write_text(
        '{"version":1,"run_id":"abc","tracking_uri":"https://me:canary@h\\u001b[2J"}'
    )
    os.utime(outbox.raw()[0], (time.time() - 7200,) * 2)

    assert main(["status", str(tmp_path), "--json"]) == main(["status", str(tmp_path)]) == DONE

    (machine, _, words) = capsys.readouterr().out.partition("\n]\n")
    (one,) = json.loads(machine + "]")
    assert (one["run_id"], one["snapshots"], one["artifacts"], one["in_use"]) == ("abc", 2, WAITING + 2, False)
    assert one["snapshots_bytes"] == total_bytes(outbox.raw())
    assert 7200 <= one["oldest_s"] < 7260
    assert "2 h old" in words
    assert "canary" not in machine + words
    assert "\x1b" not in machine + words


def test_one_unreadable_run_does_not_hide_the_others(outbox, capsys, caplog):
    Outbox(outbox.folder.parent / "broken")

    assert main(["status", str(outbox.folder.parent)]) == ERROR

    assert "2 snapshots to render" in capsys.readouterr().out
    assert "broken is not a spool" in caplog.text
