"""`ReconLogger`: unusual arguments, and uses other than documented."""

import atexit
import os

import pytest

from tests.capture.test_recon_logger import AMP, N_SAMPLES, PHASE, POSITIONS, N, add_all, logger_of, run_id

__all__ = ["logger_of", "run_id"]
pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("plain_sheets")]


def test_predictions_added_outside_the_with_block_are_named(logger_of, caplog):
    with logger_of() as recon:
        add_all(recon.epoch(1))

    (line,) = [record.message for record in caplog.records if "are not logged" in record.message]
    assert "`with` block" in line


def test_a_function_that_returns_the_positions_is_called_once_if_the_patch_size_is_known(logger_of):
    calls = []

    def positions(dataset):
        calls.append(dataset)
        return POSITIONS

    logger_of(positions=positions, num_samples=N_SAMPLES, patch_px=N).close()

    assert len(calls) == 1


def test_strict_raises(logger_of):
    with pytest.raises(ValueError, match="allowed: 0 to 59"), logger_of(strict=True) as recon, recon.epoch(1) as shot:
        shot.add([60], amp=AMP[:1], phase=PHASE[:1])


def test_a_forgotten_close_ends_with_the_line_that_accounts_for_every_snapshot(logger_of, capsys, monkeypatch):
    at_exit = []
    monkeypatch.setattr(atexit, "register", at_exit.append)
    recon = logger_of()
    with recon.epoch(1) as shot:
        add_all(shot)

    at_exit[-1]()

    assert "Reconstructions: 1 submitted = 1 logged" in capsys.readouterr().err


def test_a_forked_child_neither_uses_nor_closes_the_logger_of_its_parent(logger_of, monkeypatch, capsys):
    recon = logger_of()
    with recon.epoch(1) as shot:
        add_all(shot)

    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        assert not recon.epoch(2).due
        recon.close()
    assert "Reconstructions:" not in capsys.readouterr().err

    recon.close()
    assert "Reconstructions: 1 submitted" in capsys.readouterr().err
