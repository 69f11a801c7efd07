"""`ReconLogger` used in another way than documented."""

import pytest

from tests.capture.test_recon_logger import AMP, PHASE, add_all, logger_of, run_id

__all__ = ["logger_of", "run_id"]
pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("plain_sheets")]


def test_predictions_added_outside_the_with_block_are_named(logger_of, caplog):
    with logger_of() as recon:
        add_all(recon.epoch(1))

    (line,) = [record.message for record in caplog.records if "are not logged" in record.message]
    assert "`with` block" in line


def test_strict_raises(logger_of):
    with pytest.raises(ValueError, match="allowed: 0 to 59"), logger_of(strict=True) as recon, recon.epoch(1) as shot:
        shot.add([60], amp=AMP[:1], phase=PHASE[:1])
