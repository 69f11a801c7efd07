"""`open_run` gives back what was logged."""

import gc
import pickle
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Barrier

import numpy as np
import pytest
from mlflow.entities import Metric

from recon_worker import open_run
from recon_worker.upload.mlflow_client import local_artifact
from tests.reading.known_run import PIXEL_SIZE_M, KnownRun, new_run

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("plain_sheets")]
ROUNDING = 2e-7
"""Of single precision, for values of the order of 1."""


@pytest.fixture
def remote(server, request):
    """A known run of one epoch, whose artifacts go through an `mlflow server`."""
    return KnownRun(new_run(server.uri, f"{request.node.name}-{time.time_ns()}"), "npz").log(1)


def assert_exact(found, known, epoch, number):
    logged = known.stitched(epoch, number)
    assert found.exact
    assert found.object.dtype == np.complex64
    np.testing.assert_array_equal(found.object, logged.object)
    np.testing.assert_array_equal(found.coverage, logged.coverage)
    np.testing.assert_array_equal(found.scanned, logged.coverage > 0)
    assert (found.epoch, found.step, found.pixel_size_m) == (epoch, 10 * epoch, PIXEL_SIZE_M)


@pytest.mark.parametrize("arrays_format", ["npz", "h5"])
@pytest.mark.parametrize("number", [0, 1])
def test_an_object_with_arrays_is_the_logged_one_to_the_last_bit(run_of, arrays_format, number):
    known = run_of(arrays_format)

    for epoch in (1, 3):
        found = known.open().object(epoch, number)
        assert_exact(found, known, epoch, number)
        assert (found.truth is None) == (number == 1)
    np.testing.assert_array_equal(known.open().object().truth, known.scan.ground_truth[0])


def test_a_run_on_a_server_gives_the_same_numbers(remote):
    run = remote.open()

    assert_exact(run.object(1), remote, 1, 0)
    assert run.epochs == [1]
    assert run.metrics.loc[1, "step"] == 10
    assert run.patch(1, 0).object.shape == (16, 16)


def assert_within_precision(found, truth, logged, true):
    for image, clipped, value in ((found.object, found.clipped, logged), (truth, found.truth_clipped, true)):
        known = np.isfinite(value) & found.scanned
        difference = np.abs(np.abs(image) - np.abs(value))[known & ~clipped]
        assert difference.max() <= found.amp_precision + ROUNDING
        turned = np.angle(image * np.conj(value))[known & (np.abs(value) > 0) & (np.abs(image) > 0)]
        assert np.abs(turned).max() <= found.phase_precision_rad + ROUNDING


def test_an_object_from_pictures_is_within_its_precision_and_says_so(run_of):
    known = run_of("none")
    found, logged, true = known.open().object(2), known.stitched(2), known.scan.ground_truth[0]

    assert not found.exact
    assert_within_precision(found, found.truth, logged.object, true)
    np.testing.assert_array_equal(found.scanned, logged.coverage > 0)
    assert (found.object[~found.scanned] == 0).all()
    assert np.isnan(found.amplitude[~found.scanned]).all()
    assert found.phase_precision_rad == pytest.approx(np.pi / 251)
    assert 0 < found.clipped.mean() < 0.1
    assert (found.step, found.pixel_size_m, found.coverage) == (20, PIXEL_SIZE_M, None)
    assert "from pictures: amplitude ± " in repr(found)


def test_a_patch_is_within_its_precision(run_of):
    known = run_of("none")
    found, arrays, scan = known.open().patch(-1, 1), known.predictions(3), known.scan
    logged = arrays.fixed_amp[1] * np.exp(1j * arrays.fixed_phase[1])
    true = scan.label_amp[1] * np.exp(1j * scan.label_phase[1])

    assert_within_precision(found, found.truth, logged, true)
    for image, amplitude in (
        (found.observed_log_intensity, scan.observed_diffraction[1]),
        (found.predicted_log_intensity, arrays.fixed_diffraction[1]),
    ):
        inside = (image > image.min()) & (image < image.max())
        difference = np.abs(image - np.log1p(amplitude**2))[inside]
        assert difference.max() <= found.log_intensity_precision + ROUNDING
    assert (found.index, found.epoch, found.step, known.open().patches(3)) == (1, 3, 30, [0, 1])


def test_a_picture_has_the_values_of_its_file(run_of):
    found = run_of("none").open().picture(1, "stitched/phase_error")

    assert found.quantity.startswith("object phase error")
    assert found.values.shape == run_of("none").stitched(1).object.shape


@pytest.mark.parametrize("arrays_format", ["npz", "none"])
def test_an_aligned_object_has_the_logged_errors(run_of, arrays_format):
    run = run_of(arrays_format).open()
    found, errors = run.object(1).aligned(), run.picture(1, "stitched/amp_error")
    difference = np.abs(np.abs(found.object) - np.abs(found.truth))
    low, high = errors.value_range
    inside = errors.scanned & (errors.values > low) & (errors.values < high)

    largest = (high - low) / 502 + 2 * found.amp_precision + ROUNDING
    assert np.abs(difference - errors.values)[inside].max() <= largest * 1.1  # the fit to pictures differs a little
    assert inside.mean() > 0.3


def test_metrics_are_those_of_mlflow_by_epoch(run_of):
    known = run_of("npz")
    table = known.open().metrics
    history = known.client.get_metric_history(known.target.run_id, "recon/stitched/phase_correlation")

    assert list(table.index) == [1, 2, 3]
    assert list(table["step"]) == [10, 20, 30]
    assert list(table["recon/stitched/phase_correlation"]) == [one.value for one in history]
    assert "recon/patches/r_factor" in table
    assert type(known.open().object(table["recon/stitched/amp_mae"].idxmin()).epoch) is int
    assert table.index.name == "epoch"


def test_an_evolution_yields_the_objects_in_the_order_of_their_epochs(run_of):
    known = run_of("npz")
    found = list(known.open().evolution(1))

    assert [one.epoch for one in found] == [1, 2, 3]
    np.testing.assert_array_equal(found[1].object, known.stitched(2, 1).object)


def test_an_unfinished_run_shows_later_epochs_after_refresh(fresh):
    run = fresh.log(1).open()
    assert (run.status, run.epochs, list(run.metrics.index)) == ("RUNNING", [1], [1])
    fresh.log(2)
    before = run.epochs
    run.refresh()

    assert before == [1]
    assert run.epochs == [1, 2]
    assert list(run.metrics.index) == [1, 2]


def test_each_fit_of_a_run_is_read_by_its_number(fresh):
    now = time.time()
    for epochs, started in (((1,), now), ((1, 2), now + 1)):
        KnownRun(replace(fresh.target, started_unix_s=started), "none").log(*epochs)

    assert fresh.open().epochs == [1, 2]
    assert fresh.open(fit=1).epochs == [1]
    assert list(fresh.open(fit=2).metrics.index) == [1, 2]
    assert "recon/stitched/amp_mae" in fresh.open().metrics


def test_artifacts_of_a_local_store_are_read_in_place(run_of):
    name = "epoch_01/stitched/complex.png"

    assert run_of("none").open().file(name) == run_of("none").artifact(name)


def test_a_download_is_made_once_and_removed_with_the_run(remote, server):
    run = remote.open()
    file = run.file("epoch_01/stitched/arrays.npz")
    (stored,) = server.artifacts.glob(f"*/{run.run_id}/artifacts/epoch_01/stitched/arrays.npz")
    stored.unlink()
    assert_exact(run.object(1), remote, 1, 0)
    del run
    gc.collect()

    assert not file.exists()


def test_a_refined_object_is_read_from_its_folder(fresh):
    run_id = fresh.log(1).target.run_id
    for name in ("amp_pred", "phase_pred"):
        fresh.client.log_artifact(run_id, str(fresh.artifact(f"epoch_01/stitched/{name}.png")), "refined")
    run = fresh.open()

    np.testing.assert_array_equal(run.refined().object, run.object(1).object)
    assert (run.refined().epoch, run.refined().truth) == (None, None)
    assert repr(run.refined()).startswith("<LoggedObject: 35 x 33 px, no truth, ")


@pytest.mark.parametrize("newest", ["epoch_02", "epoch_002"])
def test_of_an_epoch_with_two_folders_the_one_in_the_gallery_is_read(fresh, newest):
    """A training of 50 epochs that is resumed for 100 repeats epoch_45 as epoch_045."""
    gallery = fresh.log(1, 2).artifact("recon_log/gallery.html")
    gallery.write_text(gallery.read_text().replace('"epoch_02"', f'"{newest}"'))
    for folder in ("epoch_002", "epoch_7"):  # the second is the user's: ours have two digits at least
        shutil.copytree(fresh.artifact("epoch_01"), fresh.artifact(folder))
    run = fresh.open()

    assert run.epochs == [1, 2]
    assert np.array_equal(run.object(2).object, run.object(1).object) == (newest == "epoch_002")
    assert {name.partition("/")[0] for name in run.files()} == {"epoch_01", newest, "recon_log"}


def test_a_run_has_any_number_of_metrics(fresh):
    client, run_id = fresh.log(1).client, fresh.target.run_id
    client.log_batch(run_id, [Metric(f"recon/stitched/number_{one}", one, 0, 10) for one in range(150)])
    table = fresh.open().metrics  # pandas warns of columns that are added one by one

    assert table.loc[1, "recon/stitched/number_149"] == 149
    assert (table.index.name, table.columns[0], table["step"].dtype) == ("epoch", "step", np.int64)


def test_the_precision_of_an_aligned_object_is_also_that_of_its_truth(run_of):
    found = run_of("none").open().object(3)
    brighter = replace(found, object=2 * found.object)

    assert np.abs(brighter.aligned().object).sum() < np.abs(brighter.object).sum()
    assert brighter.aligned().amp_precision == found.amp_precision


def test_a_run_can_be_sent_to_another_process(remote):
    run = remote.open()
    run.object(1)

    assert_exact(pickle.loads(pickle.dumps(run)).object(1), remote, 1, 0)


def test_threads_can_download_the_same_file():
    together = Barrier(2, timeout=60)

    class Store:
        def _download_file(self, path, local):
            together.wait()
            Path(local).write_text("content")
            together.wait()

    with TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: local_artifact(Store(), "a/b", lambda: Path(folder)), range(2)))
        assert [one.read_text() for one in found] == ["content"] * 2
        assert [one.name for one in Path(folder, "a").iterdir()] == ["b"]


def test_a_database_is_opened_by_a_file_uri(run_of, tmp_path, monkeypatch):
    known = run_of("none")
    monkeypatch.chdir(tmp_path)  # MLflow makes a folder "file:" in the working directory
    file = known.target.tracking_uri.removeprefix("sqlite:///")

    assert open_run(known.target.run_id, f"sqlite:///file:{file}?mode=ro&uri=true").epochs == [1, 2, 3]


def test_a_run_that_resumes_another_has_the_metrics_of_its_own_epochs(fresh):
    client, first = fresh.log(1, 2).client, fresh.target
    run_id = client.create_run(client.get_run(first.run_id).info.experiment_id).info.run_id
    resumed = replace(first, run_id=run_id, earlier_run_id=first.run_id, earlier_epoch=2)
    run = KnownRun(resumed, "none").log(3).open()

    assert [entry.epoch for entry in run.gallery_entries()] == [1, 2, 3]
    assert list(run.metrics.index) == run.epochs == [3]
    assert run.metrics.notna().all(axis=None)
