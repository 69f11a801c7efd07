"""Which errors are the machine's fault."""

import errno
import os
import resource
import subprocess
import sys

import pytest

from recon_worker.system.shortages import is_shortage


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN])
def test_what_the_machine_is_short_of_is_recognised_also_as_a_cause(number):
    shortage = OSError(number, os.strerror(number))
    outer = ValueError("cannot read")
    outer.__cause__ = shortage

    assert is_shortage(shortage)
    assert is_shortage(outer)


@pytest.mark.parametrize("error", [ValueError("shape"), OSError(errno.ENOENT, "gone"), RuntimeError("other"), None])
def test_other_errors_are_not(error):
    assert not is_shortage(error)


def test_an_array_that_does_not_fit_into_memory_is_one():
    code = (
        "import numpy\nfrom recon_worker.system.shortages import is_shortage\n"
        "try: numpy.zeros(2**46)\nexcept Exception as error: print(is_shortage(error))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.strip() == "True"


def test_a_process_without_descriptors_is_short_of_them():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    code = (
        "import os, resource\nfrom recon_worker.system.shortages import is_shortage\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (8, {hard}))\n"
        "try:\n    while True: os.dup(1)\nexcept OSError as error: print(is_shortage(error))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.strip() == "True"
