"""The sbatch script with real signals. Stand-ins for Slurm and the training record their arguments."""

import os
import shutil
import signal
import subprocess

import pytest

from tests.faults.harness import wait_until
from tests.paths import REPOSITORY

pytestmark = [pytest.mark.timeout(60), pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")]
SCRIPT = REPOSITORY / "scripts" / "hpc" / "train.sbatch"
HEAD = '#!/usr/bin/env bash\necho "$@" >> "$TRIAL/${0##*/}.said"\n'
STAND_INS = {
    # The training: writes a file to the spool on SIGTERM.
    "srun": "trap 'cd \"$SLURM_TMPDIR\"/recon_spool_7_*; touch left; exit 0' TERM\n"
    'echo $$ > "$TRIAL/new"; mv "$TRIAL/new" "$TRIAL/training"; while :; do sleep 0.02; done\n',
    "scancel": 'kill -TERM "$(cat "$TRIAL/training")"\n',
    "scontrol": "kill -KILL $PPID\n",  # Slurm ends a job that it requeues
}


class Job:
    """A running batch script."""

    def __init__(self, folder):
        self.folder, self.output = folder, folder / "out"
        commands = folder / "bin"
        commands.mkdir()
        (folder / "node").mkdir()
        for name, text in STAND_INS.items():
            (commands / name).write_text(HEAD + text)
            (commands / name).chmod(0o755)
        slurm = {"JOB_ID": "7", "JOB_NUM_NODES": "2", "NTASKS_PER_NODE": "3", "TMPDIR": str(folder / "node")}
        environment = {**os.environ, **{f"SLURM_{name}": value for name, value in slurm.items()}}
        environment |= {"TRIAL": str(folder), "PATH": f"{commands}:{os.environ['PATH']}"}
        words = ["bash", SCRIPT, self.output, "--nepochs", "9"]
        self.process = subprocess.Popen(words, env=environment, start_new_session=True)
        wait_until((folder / "training").exists)

    def said(self, command):
        """Arguments of a command, one line per call."""
        place = self.folder / f"{command}.said"
        return place.read_text().splitlines() if place.exists() else []

    def tell(self, number, *, training=False):
        """Send a signal to the script, optionally also to the training; returns the exit code."""
        os.kill(self.process.pid, number)
        if training:
            os.kill(int((self.folder / "training").read_text()), number)
        return self.process.wait(30)


@pytest.fixture
def job(tmp_path):
    jobs = []
    yield lambda: jobs.append(Job(tmp_path)) or jobs[-1]
    for one in jobs:
        if one.process.poll() is None:
            os.killpg(one.process.pid, signal.SIGKILL)
            one.process.wait()


def test_when_the_time_is_over_the_training_ends_its_spool_is_kept_and_the_job_is_queued_again(job):
    one = job()
    one.tell(signal.SIGUSR1)

    assert one.said("scancel") == ["--signal=TERM 7"]
    assert one.said("scontrol") == ["requeue 7"]
    assert (one.output / "recon_spool_7_0" / "left").exists()
    assert list((one.folder / "node").iterdir()) == []


def test_a_cancelled_job_keeps_its_spool_and_is_not_queued_again(job):
    one = job()

    assert one.tell(signal.SIGTERM, training=True) == 0
    assert one.said("scontrol") == []
    assert (one.output / "recon_spool_7_0" / "left").exists()


@pytest.mark.parametrize("started_before", [False, True])
def test_a_later_start_continues_from_the_last_checkpoint(job, tmp_path, started_before):
    if started_before:
        (tmp_path / "out" / "checkpoints").mkdir(parents=True)
        (tmp_path / "out" / "checkpoints" / "last.ckpt").touch()
    one = job()
    one.tell(signal.SIGTERM, training=True)
    (said,) = one.said("srun")

    assert ("--resume last" in said) == started_before
    assert "--num_nodes 2 --devices 3" in said
    assert said.endswith("--nepochs 9")
