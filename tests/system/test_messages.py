"""Messages reach the terminal of a user who has configured nothing, and obey one who has."""

import logging
import subprocess
import sys
from contextlib import contextmanager

import pytest
from tqdm import tqdm

from recon_worker.system.messages import message_log, show_messages


@contextmanager
def application_with(*handlers):
    """An application with these log handlers, and none of pytest's."""
    root = logging.getLogger()
    before, root.handlers = root.handlers, list(handlers)
    try:
        yield
    finally:
        root.handlers = before


@pytest.fixture
def package():
    logger = logging.getLogger("a_package")
    yield logger
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)


def test_information_is_printed_once_without_any_configuration(package, capsys):
    with application_with():
        show_messages("a_package")
        show_messages("a_package")
        message_log("a_package.module").info("epoch %d", 1)

    assert capsys.readouterr().err == "epoch 1\n"


def test_handlers_of_the_application_replace_the_terminal(package, capsys):
    records, handler = [], logging.Handler()
    handler.emit = records.append
    show_messages("a_package")
    with application_with(handler):
        message_log("a_package").info("epoch 1")

    assert [record.getMessage() for record in records] == ["epoch 1"]
    assert capsys.readouterr().err == ""


def test_the_level_of_the_application_counts(package, capsys):
    package.setLevel(logging.WARNING)
    with application_with():
        show_messages("a_package")
        message_log("a_package").info("epoch 1")
        message_log("a_package").warning("lost")

    assert capsys.readouterr().err == "lost\n"


@pytest.mark.parametrize("kind", [tqdm, type("BarOfALibrary", (tqdm,), {})])
def test_a_message_clears_the_progress_bar_before_it_is_printed(package, capsys, kind):
    show_messages("a_package")
    with application_with(), kind(total=2, desc="bar", ncols=40, mininterval=0) as bar:
        bar.update()
        message_log("a_package").info("epoch 1")

    written = capsys.readouterr().err.split("\r")
    (number,) = (number for number, text in enumerate(written) if "epoch 1" in text)
    assert written[number].startswith("epoch 1\n")
    assert written[number - 1].strip() == ""


def test_without_stderr_nothing_is_printed(package, capsys, monkeypatch):
    show_messages("a_package")
    with application_with(), monkeypatch.context() as closed:
        closed.setattr("sys.stderr", None)
        message_log("a_package").info("epoch 1")

    assert capsys.readouterr().out == ""


CHOOSES_LATE = """
import multiprocessing, sys
from recon_worker.client.recon_worker import ReconWorker
from recon_worker.settings import WorkerSettings
from recon_worker.system.messages import message_log

worker = ReconWorker(WorkerSettings(spool_dir=sys.argv[1]))
assert "tqdm" in sys.modules  # descriptors may run out before it is used
message_log("recon_worker").info("said")
worker.close(0)
multiprocessing.set_start_method("spawn")
print(multiprocessing.get_start_method())
"""


def test_messages_and_the_flush_leave_the_start_method_of_multiprocessing_to_the_application(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CHOOSES_LATE, tmp_path / "spool"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.stderr == "said\n"
    assert done.stdout == "spawn\n"
