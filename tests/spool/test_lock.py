"""The lock of a run's folder."""

import fcntl
import os
import subprocess
import sys
import time

from recon_worker.spool.lock import take_lock


def test_taking_the_lock_waits_while_status_inspects_it(tmp_path):
    os.close(take_lock(tmp_path))
    with (tmp_path / "lock").open() as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        code = "import os; from pathlib import Path; from recon_worker.spool.lock import take_lock; "
        code += f"take_lock(Path({str(tmp_path)!r})); print('held')"
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as taker:
            time.sleep(0.3)
            fcntl.flock(look, fcntl.LOCK_UN)
            assert taker.communicate(timeout=30)[0] == "held\n"
