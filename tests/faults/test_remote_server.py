"""A tracking server as in a laboratory: distant, with accounts, and serving the artifacts itself."""

import mlflow
import pytest

from ptycho_torch.cli import resolve
from ptycho_torch.config import ConfigError
from ptycho_torch.workflows.components import run_training
from recon_worker.cli.main import main
from recon_worker.client.recon_worker import ReconWorker
from recon_worker.settings import WorkerSettings
from tests.faults.harness import nothing_left_behind, wait_until  # noqa: F401
from tests.faults.proxy import Fault, FaultyProxy, always
from tests.faults.servers import AuthServer, artifact_names, new_run
from tests.faults.test_security import files_with, watched_titles
from tests.samples import layout_of, log_epoch, make_scan

pytestmark = [pytest.mark.timeout(150), pytest.mark.usefixtures("nothing_left_behind"), pytest.mark.slow]
CANARY = "canary4610password"
TOKEN = "canary4610token"
DELAY_S = 0.04
FLUSH_S = 60
SCAN = make_scan(6, 1, truth=False)
IN_A_PATCH = ["amp_pred", "phase_pred", "complex", "diff_obs_logI", "diff_pred_logI", "diff_error_logI"]
COMPARED = ["amp_gt", "amp_error", "phase_gt", "phase_error"]
STITCHED = ["amp_pred", "phase_pred", "complex", *COMPARED]


@pytest.fixture(scope="module")
def auth_server(new_database, tmp_path_factory):
    folder = tmp_path_factory.mktemp("auth")
    new_database(folder)
    one = AuthServer(folder, CANARY)
    one.start()
    yield one
    one.close()


@pytest.fixture
def proxy(auth_server):
    one = FaultyProxy(auth_server.port)
    one.rule = always(Fault(delay_s=DELAY_S))
    yield one
    one.close()


def sign_in(monkeypatch, **credentials):
    """Set these credentials, and no others, in the environment."""
    monkeypatch.setenv("HOME", "/nonexistent")  # otherwise ~/.mlflow/credentials counts too
    for name in ("username", "password", "token"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name.upper()}", raising=False)
    for name, value in credentials.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name.upper()}", value)


@pytest.fixture
def admin(monkeypatch):
    sign_in(monkeypatch, username="admin", password=CANARY)


@pytest.fixture
def train(raw_scan, tmp_path, proxy):
    """Trains for an epoch with the worker; returns the run's id."""

    def _train(**more):
        settings = {
            "train_data_file": raw_scan,
            "test_data_file": raw_scan,
            "output_dir": tmp_path / "out",
            "nepochs": 1,
            "n_filters_scale": 1,
            "mlflow_tracking_uri": proxy.uri,
            "mlflow_experiment": tmp_path.name,
            "recon_log_every_n_epochs": 1,
            "recon_log_fixed_indices": (3,),
            "recon_log_stitch": True,
            "recon_log_async": True,
            "accelerator": "cpu",
            **more,
        }
        return run_training(resolve("raw", settings)).trainer.logger.run_id

    return _train


def expected_files():
    """The files that the README lists, without the animation, which needs two epochs."""
    names = {"config.yaml", "recon_log/gallery.html", "recon_log/scales.json"}
    names.add("recon_log/events.csv")
    names |= {"epoch_01/summary.png", *(f"epoch_01/stitched/{name}.png" for name in STITCHED)}
    return names | {f"epoch_01/patch_03/{name}.png" for name in IN_A_PATCH}


HOW = {
    "password": {"username": "admin", "password": CANARY},
    "token": {"token": TOKEN},
}


@pytest.mark.parametrize("how", ["password", "token"])
def test_a_training_uploads_everything_to_a_distant_server_with_accounts(
    train, auth_server, proxy, tmp_path, monkeypatch, capfd, caplog, how
):
    proxy.tokens[TOKEN] = f"admin:{CANARY}"
    sign_in(monkeypatch, **HOW[how])
    with watched_titles() as titles:
        run_id = train()
    printed = "".join(capfd.readouterr()) + caplog.text

    assert expected_files() <= set(artifact_names(auth_server, run_id))
    assert not list((tmp_path / "out" / "recon_spool").iterdir())
    assert proxy.most_uploads >= 4
    assert not [secret for secret in (CANARY, TOKEN) if secret in printed or secret.encode() in b"".join(titles)]
    assert files_with("canary4610", tmp_path, auth_server.folder) == []


NAMES = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
NOT_ACCEPTED = {
    "wrong-password": ({"username": "admin", "password": "canary4610wrong"}, NAMES),
    "wrong-token": ({"token": "canary4610wrong"}, "MLFLOW_TRACKING_TOKEN"),
    "nothing": ({}, "none in the environment"),
}


@pytest.mark.parametrize("how", NOT_ACCEPTED)
def test_credentials_that_are_not_accepted_are_named_before_training(train, monkeypatch, tmp_path, how):
    credentials, found = NOT_ACCEPTED[how]
    sign_in(monkeypatch, **credentials)

    with pytest.raises(ConfigError, match=rf"answers 401, not authenticated\. Credentials found: {found}\.") as caught:
        train()

    assert "canary4610" not in str(caught.value)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_user_who_may_only_read_is_told_so_before_training(train, auth_server, monkeypatch, tmp_path, admin):
    auth_server.add_user("reader", "canary4610reader")
    mlflow.MlflowClient(auth_server.uri).create_experiment(tmp_path.name)
    sign_in(monkeypatch, username="reader", password="canary4610reader")

    with pytest.raises(ConfigError, match=r"answers 403, this user may not write there.*--mlflow-experiment"):
        train()


def started(tmp_path, target):
    """Start a worker with the current credentials, and wait until it has logged epoch 1."""
    worker = ReconWorker(WorkerSettings(spool_dir=tmp_path / "spool", flush_timeout_s=FLUSH_S, depth=4))
    worker.start(target, SCAN, layout_of(SCAN))
    log_epoch(worker, layout_of(SCAN), 1)
    wait_until(lambda: worker.stats.logged == 1)
    return worker


def epochs_there(server, run_id):
    return {name.split("/")[0] for name in artifact_names(server, run_id)} & {"epoch_01", "epoch_02"}


def test_after_a_change_of_password_the_rest_is_spooled_and_a_sync_with_the_new_one_uploads_it(
    auth_server, proxy, admin, monkeypatch, tmp_path
):
    auth_server.add_user("operator", f"{CANARY}-old")
    sign_in(monkeypatch, username="operator", password=f"{CANARY}-old")
    target = new_run(proxy.uri, "operator's")
    with started(tmp_path, target) as worker:
        sign_in(monkeypatch, username="admin", password=CANARY)
        auth_server.change_password("operator", f"{CANARY}-new")
        log_epoch(worker, layout_of(SCAN), 2)

    assert (worker.stats.logged, worker.stats.spooled) == (1, 1)
    assert files_with("canary4610", tmp_path) == []
    sign_in(monkeypatch, username="operator", password=f"{CANARY}-new")
    assert main(["sync", str(tmp_path / "spool")]) == 0
    assert epochs_there(auth_server, target.run_id) == {"epoch_01", "epoch_02"}


def test_a_token_that_is_refused_for_a_while_costs_no_picture(auth_server, proxy, monkeypatch, tmp_path, caplog):
    accepted = {TOKEN: f"admin:{CANARY}"}
    proxy.tokens = accepted
    sign_in(monkeypatch, token=TOKEN)
    target = new_run(proxy.uri, "expired token")
    with started(tmp_path, target) as worker:
        proxy.tokens = {}
        log_epoch(worker, layout_of(SCAN), 2)
        wait_until(lambda: "refuses artifacts" in caplog.text)
        proxy.tokens = accepted
        wait_until(lambda: worker.stats.logged == 2, 90)

    assert TOKEN not in caplog.text
    assert epochs_there(auth_server, target.run_id) == {"epoch_01", "epoch_02"}
