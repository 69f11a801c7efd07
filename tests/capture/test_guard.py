"""Errors of the logging leave nothing behind in the training."""

import weakref

import torch

from recon_worker.capture.errors import Guard


def test_an_error_that_is_caught_keeps_no_tensors_alive():
    alive = []

    def fail():
        predictions = torch.zeros(3)
        alive.append(weakref.ref(predictions))
        raise ValueError("no memory for a copy")

    try:
        fail()
    except ValueError as error:
        failure = error  # kept until all ranks know of it
    with Guard(strict=False)("a test"):
        raise failure

    assert alive[0]() is None
