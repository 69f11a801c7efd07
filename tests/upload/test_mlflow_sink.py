"""Uploads to a real MLflow store: cards once per step, metrics once, the description beside the user's text."""

import json
import os
from dataclasses import replace

import mlflow
import pytest
from PIL import Image

from recon_worker.pictures.colour_ranges import ColourRanges
from recon_worker.pictures.history import History
from recon_worker.pictures.records import DESCRIPTION_NAME, LATEST, Description, Metrics, card_name, metrics_name
from recon_worker.spool.run_target import RunTarget
from recon_worker.upload.errors import RefusedError, UnacceptableError, UploadError
from recon_worker.upload.mlflow_sink import MlflowSink
from recon_worker.upload.resume import Resume, earlier_history, fits_of, folder_of_fit, note_training
from tests.samples import make_run

DESCRIPTION = "mlflow.note.content"
CARD = card_name("epoch_05", "stitched_amp", 165)


class _Client(mlflow.MlflowClient):
    """Fails at the nth uploaded file."""

    fail_at, files, lists = 0, 0, 0

    def log_artifact(self, *args, **kwargs):
        self.files += 1
        if self.files == self.fail_at:
            raise ConnectionError("gone")
        super().log_artifact(*args, **kwargs)

    def list_artifacts(self, *args, **kwargs):
        self.lists += 1
        return super().list_artifacts(*args, **kwargs)


@pytest.fixture
def target(tracking):
    return make_run(tracking)


@pytest.fixture
def client(tracking):
    return _Client(tracking.uri)


@pytest.fixture
def card(tmp_path):
    Image.new("P", (300, 200)).save(tmp_path / "card.png")
    return tmp_path / "card.png"


@pytest.mark.parametrize("name", [metrics_name("epoch_05"), DESCRIPTION_NAME])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}"])
def test_a_damaged_file_is_named_as_such(target, client, tmp_path, name, content):
    (tmp_path / "damaged.json").write_bytes(content)

    with pytest.raises(UnacceptableError, match=f"{name} is damaged"):
        MlflowSink(target, lambda _: client).upload(tmp_path / "damaged.json", name)


def test_a_card_is_logged_once_per_step_however_often_and_by_whom(tracking, target, client, card):
    for _ in range(2):
        sink = MlflowSink(target, lambda _: client)
        for step in (0, 165, 165):
            sink.upload(card, card_name("epoch_05", "stitched_amp", step))

    assert tracking.cards() == [("recon/stitched_amp", 0), ("recon/stitched_amp", 165)]
    assert client.lists == 2
    run = client.get_run(target.run_id)
    assert run.data.tags["mlflow.loggedImages"] == "True"


@pytest.mark.parametrize(("mode", "size"), [("P", (300, 200)), ("RGB", (900, 1300))])
def test_a_card_is_uploaded_as_it_is_with_a_small_version(tracking, target, client, tmp_path, mode, size):
    Image.effect_noise(size, 50).convert(mode).save(tmp_path / "card.png", compress_level=1)
    MlflowSink(target, lambda _: client).upload(tmp_path / "card.png", CARD)

    small, picture = sorted(tracking.path("images").iterdir(), key=lambda file: file.suffix == ".png")
    assert picture.read_bytes() == (tmp_path / "card.png").read_bytes()
    with Image.open(small) as image:
        assert (image.format, max(image.size)) == ("WEBP", 256)


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2), (2, 3, 1)])
def test_mlflow_shows_the_newest_snapshot_on_the_latest_card_in_any_order_of_uploads(
    tracking, target, client, order, tmp_path
):
    for epoch in (*order, *order):  # each is tried again
        Image.new("RGB", (300, 200), (epoch, 0, 0)).save(tmp_path / "card.png")
        name = card_name(f"epoch_0{epoch}", LATEST, 0, 10**12 + epoch)
        MlflowSink(target, lambda _: client).upload(tmp_path / "card.png", name)

    *_, shown = (path for path in listed(client, target) if path.endswith(".png"))  # as MLflow's page: the last one
    with Image.open(tracking.path(shown)) as image:
        assert image.getpixel((0, 0)) == (3, 0, 0)
    assert tracking.latest() == [10**12 + 1, 10**12 + 2, 10**12 + 3]


def listed(client, target):
    return [file.path for file in client.list_artifacts(target.run_id, "images") if "latest" in file.path]


def test_the_latest_card_of_a_training_that_was_resumed_from_an_earlier_epoch_shows_the_resumed_one(
    tracking, client, card
):
    first = replace(make_run(tracking), started_unix_s=100.0)
    resumed = replace(
        first, earlier_run_id=first.run_id, earlier_epoch=1, started_unix_s=200.0, earlier_fit_unix_s=100.0
    )
    for target, epoch, unix_s in ((first, 1, 110), (resumed, 2, 210), (first, 3, 120)):  # the last from the spool
        os.utime(card, (unix_s, unix_s))
        name = card_name(f"epoch_0{epoch}", LATEST, 0, 1000 * unix_s)
        MlflowSink(target, lambda _: client).upload(card, name)

    assert tracking.latest() == [110_000, 210_000]


@pytest.mark.parametrize("fail_at", [1, 2], ids=["picture", "small version"])
def test_a_card_whose_upload_failed_half_way_is_completed(tracking, target, client, card, fail_at):
    sink = MlflowSink(target, lambda _: client)
    client.fail_at = fail_at
    with pytest.raises(UploadError, match="ConnectionError: gone"):
        sink.upload(card, CARD)
    sink.upload(card, CARD)

    assert tracking.cards() == [("recon/stitched_amp", 165)]
    names = [p.name for p in tracking.path("images").iterdir()]
    assert len(names) == 2
    (picture,) = (name for name in names if name.endswith(".png"))
    assert picture.removesuffix(".png") + "+compressed.webp" in names
    with Image.open(tracking.path("images") / (picture.removesuffix(".png") + "+compressed.webp")) as small:
        assert max(small.size) == 256


def test_metrics_that_are_logged_twice_are_there_once(tracking, target, client, tmp_path):
    (tmp_path / "numbers.json").write_bytes(Metrics(step=165, time_ms=10**12, values={"recon/a": 0.5}).to_json())
    for _ in range(2):
        MlflowSink(target, lambda _: client).upload(tmp_path / "numbers.json", metrics_name("epoch_05"))

    (logged,) = client.get_metric_history(target.run_id, "recon/a")
    assert (logged.value, logged.step, logged.timestamp) == (0.5, 165, 10**12)


def test_failed_metrics_and_tags_are_noticed_even_where_the_user_logs_asynchronously(tracking, client, monkeypatch):
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_LOGGING", "true")
    nowhere = RunTarget(run_id="0" * 32, tracking_uri=tracking.uri, earlier_run_id="0" * 32, started_unix_s=1.0)

    with pytest.raises(RefusedError, match="not found"):
        MlflowSink(nowhere, lambda _: client).log_numbers(Metrics(step=1, time_ms=10**12, values={"recon/a": 0.5}))
    with pytest.raises(mlflow.MlflowException, match="not found"):
        note_training(client, nowhere, {})


def test_the_description_shows_the_latest_summary_and_keeps_the_users_text(target, client, tmp_path):
    client.set_tag(target.run_id, DESCRIPTION, "Beam was unstable.")
    for epoch in (5, 6):
        latest = Description(title=f"Epoch {epoch}", summary=f"epoch_0{epoch}/summary.png", values={})
        (tmp_path / "run.json").write_bytes(latest.to_json())
        MlflowSink(target, lambda _: client).upload(tmp_path / "run.json", DESCRIPTION_NAME)

    text = client.get_run(target.run_id).data.tags[DESCRIPTION]
    assert text.startswith("Beam was unstable.\n")
    assert f"get-artifact?path=epoch_06%2Fsummary.png&run_uuid={target.run_id}" in text
    assert "epoch_05" not in text


def _continued(target):
    return RunTarget(run_id="new", tracking_uri=target.tracking_uri, earlier_run_id=target.run_id, earlier_epoch=5)


def test_a_resumed_run_continues_with_the_ranges_that_the_earlier_one_logged(target, client, tmp_path):
    scales = ColourRanges({"stitched/amp": (0.25, 1.5)})
    (tmp_path / "scales.json").write_text(scales.to_json())
    MlflowSink(target, lambda _: client).upload(tmp_path / "scales.json", "recon_log/scales.json")

    history = earlier_history(_continued(target), lambda _: client)
    assert history.colour_ranges.to_json() == scales.to_json()
    assert history.unpublished_scales() == scales.to_json().encode()


@pytest.mark.parametrize("content", ["{", json.dumps({"version": 99, "ranges": {}})])
def test_damaged_ranges_of_an_earlier_run_cost_a_warning(target, client, tmp_path, caplog, content):
    (tmp_path / "scales.json").write_text(content)
    MlflowSink(target, lambda _: client).upload(tmp_path / "scales.json", "recon_log/scales.json")

    assert (
        earlier_history(_continued(target), lambda _: client).colour_ranges.to_json()
        == History().colour_ranges.to_json()
    )
    assert "New ones are chosen" in caplog.text


def test_a_run_that_continues_nothing_asks_no_server():
    def connect(_):
        raise AssertionError

    target = RunTarget(run_id="a", tracking_uri="http://127.0.0.1:9")
    assert earlier_history(target, connect).entries == []


def test_fits_are_told_apart_in_the_order_in_which_they_come_to_the_run(target, client):
    def part_of(**more):
        return note_training(client, replace(target, **more), client.get_run(target.run_id).data.tags)

    assert part_of(started_unix_s=20.0) == ("", [])
    assert part_of(started_unix_s=10.0)[0] == "fit_2"  # later, from the spool
    assert part_of(started_unix_s=20.0)[0] == ""
    again = {"earlier_run_id": target.run_id, "earlier_epoch": 3}
    assert part_of(started_unix_s=30.0, earlier_fit_unix_s=10.0, **again) == ("fit_2", [Resume(30.0, 3)])
    assert part_of(started_unix_s=40.0, **again) == ("", [Resume(40.0, 3)])
    _, resumes = part_of(started_unix_s=50.0, earlier_run_id="another", earlier_epoch=9)
    assert resumes == [Resume(40.0, 3), Resume(50.0, 9)]
    assert folder_of_fit(fits_of(client.get_run(target.run_id).data.tags), 10.0) == "fit_2"
