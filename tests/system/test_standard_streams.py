"""Standard streams that are closed or replaced: nothing is lost, and nothing is written to a reused descriptor."""

import subprocess
import sys

import pytest

from tests.cli.spools import DONE, make_spool
from tests.client.test_worker_process import LOG_ONE
from tests.faults.harness import epochs
from tests.paths import REPOSITORY
from tests.samples import make_run

pytestmark = [pytest.mark.timeout(200), pytest.mark.usefixtures("nothing_left_behind"), pytest.mark.slow]
CLOSED = ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"]
REPLACED = {
    "none": "sys.stderr = None",
    "closed": "sys.stderr.close()",
    "logger": "sys.stderr = type('Log', (), {'write': lambda self, text: len(text)})()",
    "raises": "sys.stderr = type('Log', (), {'write': None, 'isatty': lambda self: 1 / 0})()",
}
LIBRARY = """
def print_in_c():
    import contextlib, os
    with contextlib.suppress(OSError):
        os.write(2, b"a library prints this" * 100)
"""


def run(*words, streams, cwd):
    """Run Python with shell redirections."""
    command = ["sh", "-c", f'exec "$@" {streams}', "sh", sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=150)


@pytest.mark.parametrize("streams", CLOSED)
def test_a_process_without_standard_streams_logs_everything(tracking, tmp_path, streams):
    target = make_run(tracking)
    code = LOG_ONE.format(repository=str(REPOSITORY), run_id=target.run_id, uri=target.tracking_uri)
    code = LIBRARY + code.replace("worker.start(", "print_in_c(); worker.start(")

    done = run(
        "-c", f"{code}raise SystemExit(worker.stats.logged - 1 + worker.stats.restarts)", streams=streams, cwd=tmp_path
    )

    assert done.returncode == 0, done.stdout
    assert epochs(tracking) == {1}


@pytest.mark.parametrize("how", REPLACED)
def test_a_process_whose_stderr_was_replaced_logs_everything(tracking, tmp_path, how):
    target = make_run(tracking)
    code = LOG_ONE.format(repository=str(REPOSITORY), run_id=target.run_id, uri=target.tracking_uri)

    done = run("-c", f"import sys; {REPLACED[how]}\n{code}sys.stderr = None", streams="", cwd=tmp_path)

    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "1")
    assert epochs(tracking) == {1}


@pytest.mark.parametrize("streams", [CLOSED[0], CLOSED[2]])
@pytest.mark.parametrize("command", ["sync", "status"])
def test_the_program_works_without_standard_streams(tracking, tmp_path, command, streams):
    outbox = make_spool(tmp_path / "spool", make_run(tracking), raw=(1,), rendered=(2,))

    assert run("-m", "recon_worker", command, outbox.folder, streams=streams, cwd=tmp_path).returncode == DONE

    assert epochs(tracking) == ({1, 2} if command == "sync" else set())
    assert outbox.folder.exists() == (command == "status")


def test_a_log_handler_whose_stream_is_closed_costs_no_snapshot(tracking, tmp_path):
    """As after `logging.basicConfig()`; the death of a worker is logged. The new stderr raises, too."""
    target = make_run(tracking)
    code = LOG_ONE.format(repository=str(REPOSITORY), run_id=target.run_id, uri=target.tracking_uri)
    closed = f"import logging, os, sys; logging.basicConfig(); sys.stderr.close(); {REPLACED['raises']}\n"
    code = code.replace("log_epoch(", "os.kill(worker.pid, 9); log_epoch(").replace(
        "print(", "print(worker.stats.restarts, "
    )

    done = run("-c", f"{closed}{code}sys.stderr = None", streams="", cwd=tmp_path)

    assert (done.returncode, done.stdout) == (0, "1 1\n")
    assert epochs(tracking) == {1}


def test_child_processes_have_standard_descriptors(tmp_path):
    look = "import os; [os.fstat(number) for number in range(3)]"
    code = (
        "import subprocess, sys\n"
        "from recon_worker.system.standard_streams import occupy_descriptors\noccupy_descriptors()\n"
    )
    code += f"raise SystemExit(subprocess.run([sys.executable, '-c', {look!r}]).returncode)"

    assert run("-c", code, streams=CLOSED[2], cwd=tmp_path).returncode == 0
