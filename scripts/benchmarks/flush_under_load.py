"""Duration of the final flush while other programs use all processors. Linux only.

    python scripts/benchmarks/flush_under_load.py [--rounds 3]

Four snapshots wait when training ends, beside one busy process per processor. Measures the duration of `close`
with the worker at low priority throughout, and with normal priority during the flush, as implemented. Drops root's
privilege to raise priorities first.
"""

import argparse
import contextlib
import ctypes
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import mlflow
from worker_memory import CROP_PX, FIXED, N_PX, SAMPLES, log, make_scan

from recon_worker.client.recon_worker import ReconWorker
from recon_worker.client.supervisor import Supervisor
from recon_worker.settings import WorkerSettings
from recon_worker.snapshot.records import SnapshotLayout
from recon_worker.spool.run_target import RunTarget

SNAPSHOTS, FLUSH_S = 4, 200.0
_PR_CAPBSET_DROP, _CAP_SYS_ADMIN, _CAP_SYS_NICE = 24, 21, 23
_LOW, _NORMAL = "low priority", "normal priority"


def give_up_privileges() -> None:
    """Drop the capabilities to raise priorities from all processes that this one starts."""
    for capability in (_CAP_SYS_ADMIN, _CAP_SYS_NICE):
        ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


@contextlib.contextmanager
def busy_processors(*, busy: bool) -> Iterator[None]:
    """Run one busy loop per processor in this session, or none."""
    programs = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy * (os.cpu_count() or 1))
    ]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def flush_s(folder: Path, uri: str, experiment: str, *, busy: bool) -> float:
    """Seconds from the end of the training to the end of `close`."""
    run_id = mlflow.MlflowClient(uri).create_run(experiment).info.run_id
    scan = make_scan()
    layout = SnapshotLayout(n_fixed=FIXED, patch_px=N_PX, n_stitch=SAMPLES, channels=1, crop_px=CROP_PX)
    worker = ReconWorker(WorkerSettings(spool_dir=folder / "spool", depth=SNAPSHOTS, flush_timeout_s=FLUSH_S))
    worker.start(RunTarget(run_id=run_id, tracking_uri=uri), scan, layout)
    log(worker, layout, 1)
    worker.flush(FLUSH_S)  # the worker has started and imported its modules
    with busy_processors(busy=busy):
        for epoch in range(2, 2 + SNAPSHOTS):
            log(worker, layout, epoch)
        began = time.monotonic()
        worker.close(FLUSH_S)
        taken_s = time.monotonic() - began
    if worker.stats.logged != 1 + SNAPSHOTS:
        raise RuntimeError(worker.summary())
    return taken_s


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the median counts (default: %(default)s)")
    rounds = parser.parse_args().rounds
    give_up_privileges()
    hurry, seconds = Supervisor.hurry, dict[tuple[str, bool], list[float]]()
    with tempfile.TemporaryDirectory(prefix="recon-log-") as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        artifacts = Path(folder, "artifacts").as_uri()
        experiment = mlflow.MlflowClient(uri).create_experiment("flush", artifact_location=artifacts)
        for _ in range(rounds):
            for priority in (_LOW, _NORMAL):
                Supervisor.hurry = hurry if priority == _NORMAL else lambda _: None  # type: ignore[method-assign, assignment]
                for busy in (False, True):
                    taken_s = flush_s(Path(folder), uri, experiment, busy=busy)
                    seconds.setdefault((priority, busy), []).append(taken_s)
    autogroup = Path("/proc/sys/kernel/sched_autogroup_enabled")
    print(f"{os.cpu_count()} processors, autogroup {autogroup.read_text().strip() if autogroup.exists() else 'absent'}")
    print("| worker during the flush | idle machine, s | busy machine, s |\n|---|---|---|")
    median = {case: statistics.median(values) for case, values in seconds.items()}
    for priority in (_LOW, _NORMAL):
        print(f"| {priority} | {median[priority, False]:.1f} | {median[priority, True]:.1f} |")
    print(f"\nOn the busy machine, normal to low: {median[_NORMAL, True] / median[_LOW, True]:.2f}")


if __name__ == "__main__":
    main()
