"""What cannot be read is an error that names it; artifacts are not trusted."""

import io
import os
import shutil

import h5py
import numpy as np
import pytest

from recon_worker import ReadError, open_run
from recon_worker.pictures.arrays import encode_h5, encode_npz

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("plain_sheets")]
ARRAYS = "epoch_01/stitched/arrays"


def test_an_unknown_run_is_named(mlflow_database):
    with pytest.raises(ReadError, match=r"run 0123 at sqlite:.* cannot be opened: .*not found"):
        open_run("0123", mlflow_database)


def test_a_database_that_is_not_there_is_not_created(tmp_path):
    with pytest.raises(ReadError, match="there is no database"):
        open_run("0123", f"sqlite:///{tmp_path}/absent.db")

    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_server_is_reported_without_the_password(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ReadError, match="refused") as caught:
        open_run("0123", "http://me:canary@127.0.0.1:9")

    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_run_without_reconstructions_says_so(fresh):
    run = fresh.open()

    assert (run.epochs, run.metrics.empty, run.pixel_size_m, list(run.evolution())) == ([], True, None, [])
    with pytest.raises(ReadError, match=r"has no reconstructions in file:\S+ yet; refresh\(\) looks again"):
        run.object()
    fresh.client.set_terminated(run.run_id)
    run.refresh()
    with pytest.raises(ReadError, match=r"has no reconstructions in file:\S+\.$"):
        run.object()


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda run: run.object(7), r"Epoch 7 is not logged .*; logged: 1, 2, 3\."),
        (lambda run: run.object(-4), r"Epoch -4 is not logged"),
        (lambda run: run.object(1, 2), r"no stitched object 2 yet.*; it has \[0, 1\]"),
        (lambda run: run.patch(1, 9), r"Patch 9 is not logged in epoch 1 .*; logged: \[0, 1\]"),
        (lambda run: run.picture(1, "stitched/phase_best"), r"epoch_01/stitched/phase_best.png is not in run"),
        (lambda run: run.picture(1, "stitched/complex"), "complex.png .* is damaged: .*not a scalar image"),
        (lambda run: run.file("../../mlflow.db"), "is not the name of a reconstruction's artifact"),
        (lambda run: run.file("epoch_01/../../x/summary.png"), "is not the name"),
        (lambda run: run.picture(1, "../../../etc/passwd"), "is not the name"),
        (lambda run: run.refined(), r"refined/amp_pred\.png is not in run"),
    ],
)
def test_what_is_not_logged_is_named_with_what_is(run_of, read, message):
    with pytest.raises(ReadError, match=message):
        read(run_of("none").open())


def test_a_fit_that_does_not_exist_is_an_error(run_of):
    with pytest.raises(ReadError, match="has no fit 3: it has 1"):
        run_of("none").open(fit=3)


@pytest.mark.parametrize("missing", ["amp_pred", "phase_pred", "amp_gt", "phase_gt"])
def test_a_partly_uploaded_object_names_the_missing_picture(fresh, missing):
    fresh.log(1).artifact(f"epoch_01/stitched/{missing}.png").unlink()

    with pytest.raises(ReadError, match=rf"epoch_01/stitched/{missing}.png is not in run .* yet; refresh"):
        fresh.open().object()


class Trap:
    """Its pickle creates a folder when it is loaded."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def npz_with(**changes):
    """An `arrays.npz` with some members replaced."""
    stream = io.BytesIO()
    arrays = {"object": np.zeros((4, 4), np.complex64), "coverage": np.ones((4, 4), np.float32)}
    arrays |= {"positions_px": np.zeros((1, 2)), "epoch": np.array(1), "step": np.array(1)}
    np.savez(stream, **{name: value for name, value in (arrays | changes).items() if value is not None})
    return stream.getvalue()


def damaged(folder):
    """Contents of `arrays.npz` that must be refused."""
    whole = npz_with()
    pickled = np.empty((1, 1), object)
    pickled[0, 0] = Trap(folder / "trapped")
    huge = np.lib.stride_tricks.as_strided(np.zeros(1, np.complex64), (1 << 20, 1 << 20), (0, 0))
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(huge))
    yield whole[: len(whole) // 2]
    yield b"<html>sign in</html>"
    yield npz_with(object=pickled)
    yield npz_with(object=np.zeros((4, 4)))
    yield npz_with(object=np.zeros((5, 4), np.complex64))
    yield npz_with(coverage=None)
    small = io.BytesIO()
    np.lib.format.write_array(small, np.zeros((4, 4), np.complex64))
    yield whole.replace(small.getvalue()[:128], header.getvalue()[:128])


def test_damaged_and_hostile_arrays_are_refused(fresh, tmp_path):
    fresh.log(1)
    for content in damaged(tmp_path):
        fresh.artifact(f"{ARRAYS}.npz").write_bytes(content)
        with pytest.raises(ReadError, match=r"epoch_01/stitched/arrays.npz of run .* is damaged: "):
            fresh.open().object()

    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("kind", ["external link", "external data", "soft link"])
def test_an_h5_file_cannot_show_other_files(fresh, tmp_path, kind):
    secret, name = tmp_path / "secret", "entry_1/image_1/coverage"
    secret.write_bytes(bytes(10_000))
    file = fresh.log(1).artifact(f"{ARRAYS}.h5")
    file.write_bytes(encode_h5(fresh.open().object().to_arrays()))
    with h5py.File(file, "r+") as content:
        shape = content["entry_1/image_1/data"].shape
        if kind == "external data":
            content.create_dataset(name, shape, np.float32, external=[(str(secret), 0, 4 * shape[0] * shape[1])])
        else:
            content[name] = h5py.SoftLink("/a") if kind == "soft link" else h5py.ExternalLink(str(secret), "/a")

    with pytest.raises(ReadError, match=r"is a link|its own data"):
        fresh.open().object()


def test_a_truncated_picture_and_gallery_are_named(fresh):
    picture = fresh.log(1).artifact("epoch_01/stitched/amp_pred.png")
    picture.write_bytes(picture.read_bytes()[:200])
    fresh.artifact("recon_log/gallery.html").write_text("<html>")

    with pytest.raises(ReadError, match=r"amp_pred.png of run .* is damaged"):
        fresh.open().object()
    with pytest.raises(ReadError, match=r"gallery.html of run .* is damaged"):
        _ = fresh.open().metrics
    assert "is damaged" in fresh.open()._repr_html_()


def test_an_object_without_truth_cannot_be_aligned(run_of):
    with pytest.raises(ValueError, match="no ground truth"):
        run_of("npz").open().object(1, 1).aligned()


def test_an_exported_npz_without_coverage_is_no_logged_one(fresh):
    fresh.log(1).artifact(f"{ARRAYS}.npz").write_bytes(encode_npz(fresh.open().object().to_arrays()))

    with pytest.raises(ReadError, match="coverage is missing"):
        fresh.open().object()


def test_a_run_whose_artifacts_are_not_on_this_machine_says_where_they_were(fresh):
    folder = fresh.log(1).artifact("")
    folder.rename(folder.with_name("elsewhere"))

    with pytest.raises(ReadError, match=rf"has no reconstructions in file:.*{fresh.target.run_id}/artifacts yet"):
        fresh.open().object()


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("phase_pred", "stitched_object_01/phase_pred", r"amp_pred.png and phase_pred.png do not show the same pixels"),
        ("{}_gt", "patch_00/{}_gt", r"amp_pred.png and amp_gt.png have different sizes"),
    ],
)
def test_pictures_that_do_not_belong_together_are_named(fresh, name, source, message):
    fresh.log(1)
    for part in ("amp", "phase"):
        shutil.copy(
            fresh.artifact(f"epoch_01/{source.format(part)}.png"),
            fresh.artifact(f"epoch_01/stitched/{name.format(part)}.png"),
        )

    with pytest.raises(ReadError, match=rf"epoch_01/stitched of run .* cannot be read: {message}"):
        fresh.open().object()


def test_a_picture_that_the_system_cannot_open_is_not_called_damaged(fresh):
    picture = fresh.log(1).artifact("epoch_01/stitched/amp_pred.png")
    picture.unlink()
    picture.mkdir()

    with pytest.raises(ReadError, match=r"amp_pred.png of run .* cannot be read: IsADirectoryError"):
        fresh.open().object()
