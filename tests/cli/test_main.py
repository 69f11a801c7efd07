"""Arguments of `recon-worker`: wrong usage, help, version."""

import os
import subprocess
import sys
import time
from importlib.metadata import version

import pytest

from recon_worker.cli.main import main
from tests.cli.spools import DONE, ERROR, command, recon_worker
from tests.faults.harness import soon_s

pytestmark = pytest.mark.timeout(200)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sync", "{}/absent"], "absent does not exist, and its parent is not a spool"),
        (["sync", "{}/absent/run"], "run does not exist"),
        (["sync", "{}"], "is not a spool"),
        (["render", "{}", "--out", "{}/out"], "choose a folder outside it"),
        (["sync", "{}", "--timeout", "nan"], "not a time in seconds"),
        (["sync", "{}", "--tracking-uri", "http://me:canary@h"], "it holds a password"),
        ([], "COMMAND"),
    ],
)
def test_wrong_usage_is_reported(words, message, tmp_path):
    (tmp_path / "something").write_text("")
    done = recon_worker(*(word.format(tmp_path) for word in words))

    assert done.returncode == ERROR
    assert message in done.stderr
    assert "canary" not in done.stderr


def test_help_is_fast_and_imports_nothing_heavy():
    code = "import sys; from recon_worker.cli.main import main\n"
    code += "try: main(['sync', '--help'])\nexcept SystemExit: pass\n"
    code += "print(sorted({'numpy', 'mlflow', 'matplotlib', 'tqdm', 'PIL'} & set(sys.modules)))"
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert time.monotonic() - started < soon_s()
    assert "exit codes:" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_the_version_is_that_of_the_installed_distribution():
    done = recon_worker("--version")

    assert (done.returncode, done.stderr) == (DONE, "")
    assert done.stdout.split() == ["recon-worker", version("recon-worker")]


def test_the_version_of_a_copied_package_is_unknown(monkeypatch, capsys):
    monkeypatch.setattr("importlib.metadata.Distribution.discover", lambda **_: iter(()))
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--version"])

    assert capsys.readouterr().out == "recon-worker unknown\n"


def test_a_reader_that_has_stopped_is_no_error(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command("status", tmp_path), stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)

    assert (done.returncode, done.stderr) == (DONE, "")
