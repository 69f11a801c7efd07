"""Messages about a process's end, its last words, and the command that uploads a spool."""

import io
import json
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

import recon_worker
from recon_worker.cli.main import main
from recon_worker.client.process import end_process, last_words
from recon_worker.spool.sync_command import sync_command
from tests.cli.spools import make_spool
from tests.faults.harness import epochs
from tests.samples import make_run

pytestmark = pytest.mark.timeout(200)
NOTHING_LEFT = "Nothing is left"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise SystemExit(7)", "exit code 7"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL, often out of memory"),
        ("import os; os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
        ("import os; os.kill(os.getpid(), 40)", "killed by signal 40"),
    ],
)
def test_the_end_of_a_process_is_described_in_words(code, words):
    assert end_process(subprocess.Popen([sys.executable, "-c", code]), 30.0) == words


def test_a_process_killed_by_this_program_is_not_reported_as_out_of_memory():
    assert end_process(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]), 0.0) == (
        "killed by this program"
    )


def test_last_words_begin_with_the_exception_and_contain_whole_lines():
    code = f"print({'x' * 5000!r} + '\\nmiddle', file=__import__('sys').stderr, flush=True)\n1 / 0"
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr

    lines = last_words(text).splitlines()

    assert lines[0] == "ZeroDivisionError: division by zero"
    assert "Traceback (most recent call last):" in lines
    assert not any(line.startswith("x") for line in lines)


def test_last_words_of_a_silent_process_are_empty():
    assert last_words(" \n") == ""


def test_the_printed_command_works_without_a_console_script(tmp_path):
    """As in a project with a copy of the package: a different interpreter and a minimal PATH."""
    copied = tmp_path / "my project"
    shutil.copytree(Path(recon_worker.__file__).parent, copied / "recon_worker")
    code = 'from recon_worker.spool.sync_command import sync_command; print(sync_command("it\'s spooled"))'
    environment = {**os.environ, "PYTHONPATH": str(copied), "PATH": "/usr/bin:/bin"}
    bare = [str(_without_script(tmp_path)), "-c", code]
    command = subprocess.run(bare, env=environment, cwd="/", capture_output=True, text=True, check=True).stdout

    del environment["PYTHONPATH"]
    (tmp_path / "it's spooled").mkdir()
    done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert "-m recon_worker sync" in command
    assert (done.returncode, NOTHING_LEFT.lower() in (done.stdout + done.stderr).lower()) == (0, True), done


def test_the_printed_command_is_the_console_script_if_it_is_installed():
    assert sync_command("/spool").endswith("recon-worker sync /spool")


@pytest.mark.parametrize(
    ("name", "stdout"),
    [
        pytest.param(b"sp\xff ool", "utf-8:strict", marks=pytest.mark.slow),
        (b"it's\n\\ \x1b[2J \xc3\xa9\xff", "ascii:strict"),
        pytest.param(b"sp\xff ool", "ascii:strict", marks=pytest.mark.slow),
        pytest.param(b"it's\n\\ \x1b[2J \xc3\xa9\xff", "utf-8:strict", marks=pytest.mark.slow),
    ],
)
def test_a_path_of_any_bytes_is_printed_and_the_command_can_be_pasted(tracking, tmp_path, name, stdout):
    spool = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    folder = make_spool(spool, make_run(tracking)).folder
    encoding, errors = stdout.split(":")

    def said(*words):
        with io.TextIOWrapper(io.BytesIO(), encoding, errors) as written, redirect_stdout(written):
            assert main([*map(str, words)]) == 0
            written.flush()
            return written.buffer.getvalue()

    assert b"2 snapshots to render" in said("status", spool)
    assert json.loads(said("status", spool, "--json"))[0]["folder"] == str(folder)
    assert b"pictures written" in said("render", spool, "--out", f"{spool}.out")
    pasted = f"printf '%s\\0' {sync_command(folder)}"
    words = subprocess.run(["bash", "-c", pasted], check=True, stdout=subprocess.PIPE, timeout=60).stdout.split(b"\0")
    said(*map(os.fsdecode, words[words.index(b"sync") : -1]))

    assert epochs(tracking) == {1, 2, 3}


def _without_script(tmp_path):
    """Create an environment with the same packages but without the console script. Returns its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    (site_packages,) = (tmp_path / "bare").glob("lib/*/site-packages")
    (site_packages / "others.pth").write_text(f"{Path(os.__file__).parent}\n{_site_packages()}\n")
    return tmp_path / "bare" / "bin" / "python"


def _site_packages():
    return next(path for path in sys.path if path.endswith("site-packages"))
