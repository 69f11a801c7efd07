"""A training in a separate process, controlled by a test."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

from tests.leaks import read
from tests.paths import REPOSITORY

FLUSH_S = 40
Ledger = namedtuple("Ledger", "submitted logged dropped spooled failed")


class Training:
    """`tests.faults.trainer` in a separate process and session."""

    def __init__(self, tracking, tmp_path, **options):
        self.spool = tmp_path / "spool"
        defaults = {"fault": "", "fault_epoch": 2, "epochs": 1000, "step_s": 0.02, "flush_timeout_s": FLUSH_S}
        places = {"spool": str(self.spool), "folder": str(tmp_path / "fit"), "artifacts": tracking.artifacts.as_uri()}
        words = json.dumps({**defaults, **places, "experiment": tracking.experiment, "uri": tracking.uri, **options})
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.trainer", words],
            cwd=REPOSITORY,
            env={**os.environ, "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.submitted, self.stderr = set(), ""

    def read_until(self, epoch):
        """Wait until the snapshot of an epoch is submitted."""
        self.hear(f"submitted {epoch}")

    def hear(self, words):
        """Wait until the training prints these words."""
        said = ""
        while said != words:
            line = self.process.stdout.readline()
            assert line, self.process.stderr.read()
            said = line.strip()
            self._note(said)

    def _note(self, line):
        if line.startswith("submitted"):
            self.submitted.add(int(line.split()[1]))

    def assert_ledger(self):
        """Assert that its final line counts all submitted snapshots and is balanced; returns the counts."""
        (counts,) = re.findall(
            r"(\d+) submitted = (\d+) logged \+ (\d+) dropped \+ (\d+) spooled \+ (\d+) failed", self.stderr
        )
        submitted, *fates = map(int, counts)
        assert submitted == sum(fates) == len(self.submitted)
        assert fates[1] == fates[3] == 0
        return Ledger(submitted, *fates)

    def ended(self, within_s=150):
        """Wait for its end and record its remaining output; returns the exit code."""
        try:
            out, self.stderr = self.process.communicate(timeout=within_s)
        except subprocess.TimeoutExpired:
            self.end()
            raise
        for line in out.splitlines():
            self._note(line)
        return self.process.returncode

    def end(self):
        """Kill the training and its workers."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()
        for pid in self.workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.stdout.close()
        self.process.stderr.close()

    def workers(self):
        """Pids of its worker processes."""
        words = f"recon_worker.worker.loop\0{self.process.pid}\0".encode()
        return [int(p.parent.name) for p in Path("/proc").glob("[0-9]*/cmdline") if words in read(p)]
