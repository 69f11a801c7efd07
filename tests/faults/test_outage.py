"""A whole training in a separate process, whose real MLflow server is down for a minute."""

import threading
from collections import Counter

import mlflow
import pytest

from tests.conftest import Tracking
from tests.faults.servers import artifact_names
from tests.faults.tracked import card_of

pytestmark = [pytest.mark.timeout(290), pytest.mark.slow, pytest.mark.usefixtures("nothing_left_but_the_server")]
AWAY_S, EPOCHS, STEPS, STEP_S = 60, 30, 5, 0.5
"""A training of about 80 s."""


@pytest.mark.parametrize(("leave", "come_back"), [("kill", "start"), ("freeze", "thaw")], ids=["killed", "frozen"])
def test_a_training_whose_server_is_down_for_60_s_has_everything_in_mlflow_in_the_end(
    server, train, tmp_path, leave, come_back
):
    there = Tracking(server.uri, f"outage-{leave}", tmp_path / "not used")
    training = train(there, artifacts=None, epochs=EPOCHS, step_s=STEP_S, flush_timeout_s=120)
    training.read_until(3)
    getattr(server, leave)()
    back = threading.Timer(AWAY_S, getattr(server, come_back))
    back.start()
    try:
        training.read_until(12)
        went_on = back.is_alive()
        code = training.ended(250)
    finally:
        back.join()

    assert went_on
    assert code == 0, training.stderr
    assert training.submitted == set(range(EPOCHS + 1))
    assert "recon-worker sync" not in training.stderr
    assert list(training.spool.iterdir()) == []
    assert_complete(server, there.experiment)


def assert_complete(server, experiment):
    """Assert that all epochs have the same pictures, cards and metrics exist once, and the run is finished."""
    client = mlflow.MlflowClient(server.uri)
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    names = artifact_names(server, run.info.run_id)
    per_epoch = [{n.split("/", 1)[1] for n in names if n.startswith(f"epoch_{e:02d}/")} for e in range(EPOCHS + 1)]
    cards = Counter(card_of(name) for name in names if name.startswith("images/"))
    lags, losses = (client.get_metric_history(run.info.run_id, name) for name in ("recon_log/lag_s", "train_loss"))

    assert all(one == per_epoch[0] for one in per_epoch)
    assert {"summary.png", "stitched/amp_pred.png", "patch_00/phase_pred.png"} <= per_epoch[0]
    assert set(cards.values()) == {1}
    assert len(cards) % (EPOCHS + 1) == 0
    assert sorted(Counter(one.step for one in lags).values()) == [1] * (EPOCHS + 1)
    assert sorted(one.step for one in losses) == list(range(EPOCHS * STEPS))
    assert {"recon_log/events.csv", "recon_log/gallery.html", "recon_log/scales.json"} <= set(names)
    assert run.info.status == "FINISHED"
