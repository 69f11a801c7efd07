"""Failed requests are repeated with increasing waits, rarely after a refusal, never after `stop`."""

import pytest

from recon_worker.upload import retry
from recon_worker.upload.errors import RefusedError, UnacceptableError, UploadError
from recon_worker.upload.retry import Retries, StoppedError, backoff_s


@pytest.fixture
def waits_s(monkeypatch):
    """Requested durations of the waits, which take no time here."""
    waits = []

    def wait(self, seconds, round_began, requests=1):
        waits.append(seconds)
        self.count += requests

    monkeypatch.setattr(Retries, "wait", wait)
    monkeypatch.setattr(retry.random, "uniform", lambda low, high: high)
    return waits


def _failing(*errors):
    """A request that raises these errors, one after the other, and then succeeds."""
    left = list(errors)

    def request():
        if left:
            raise left.pop(0)
        return "done"

    return request


def test_waits_double_up_to_15_s_and_a_refusal_waits_30_s(waits_s):
    retries = Retries(lambda refused: None)

    assert retries.call(_failing(*[UploadError("down")] * 7, RefusedError("401"))) == "done"
    assert waits_s == [0.5, 1, 2, 4, 8, 15, 15, 30]
    assert retries.count == 8


def test_the_wait_is_bounded_after_days_of_an_outage():
    assert backoff_s(10**6) == 15


def test_each_attempt_says_whether_it_was_refused(waits_s):
    attempts = []
    Retries(attempts.append).call(_failing(RefusedError("401"), UploadError("down")))

    assert attempts == [False, True, False, False, False]


def test_an_error_that_is_not_to_be_repeated_is_raised_at_once(waits_s):
    with pytest.raises(UnacceptableError):
        Retries(lambda refused: None).call(_failing(UnacceptableError("413")), but_not=UnacceptableError)

    assert waits_s == []


def test_the_first_failure_of_each_kind_is_a_warning(waits_s, caplog):
    retries = Retries(lambda refused: None)
    retries.call(_failing(*[UploadError("down")] * 3, *[RefusedError("401")] * 3))

    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [
        "An upload to the tracking server failed; it is tried again. down",
        "The tracking server refuses artifacts; they stay in the spool. 401",
    ]


def test_after_stop_a_failure_is_final():
    retries = Retries(lambda refused: None)
    retries.stop()

    with pytest.raises(StoppedError):
        retries.call(_failing(UploadError("down")))


def test_a_call_for_a_retry_ends_the_waits_of_attempts_before_it():
    retries = Retries(lambda refused: None)
    began = retries.round
    retries.retry_now()
    retries.wait(3600, began)

    assert retries.count == 1
