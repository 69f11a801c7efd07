"""`recon-worker export` writes what is logged, and says what it wrote."""

import h5py
import numpy as np
import pytest

from tests.cli.spools import DONE, ERROR, recon_worker
from tests.paths import read_npz
from tests.reading.known_run import PIXEL_SIZE_M, KnownRun, new_run

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("plain_sheets")]


@pytest.fixture(scope="module")
def run_of(mlflow_database, tmp_path_factory):
    """Known runs by the format of their arrays: run_of("npz")."""
    made, folder = {}, tmp_path_factory.mktemp("export")

    def known(arrays_format):
        if arrays_format not in made:
            target = new_run(mlflow_database, f"{folder.name}-{arrays_format}", folder / arrays_format)
            made[arrays_format] = KnownRun(target, arrays_format).log(1, 2)
        return made[arrays_format]

    return known


def export(known, out, *options):
    return recon_worker(
        "export", known.target.run_id, "--tracking-uri", known.target.tracking_uri, "--out", out, *options
    )


def test_an_npz_file_of_logged_arrays_is_the_logged_file(run_of, tmp_path):
    known, out = run_of("npz"), tmp_path / "new" / "object.npz"
    done = export(known, out, "--epoch", 1)

    assert (done.returncode, done.stderr) == (DONE, "")
    assert out.read_bytes() == known.artifact("epoch_01/stitched/arrays.npz").read_bytes()
    assert "epoch 1 of run" in done.stdout
    assert "33 x 35 px, exact" in done.stdout


def test_a_cxi_file_holds_the_logged_object(run_of, tmp_path):
    known, out = run_of("npz"), tmp_path / "object.cxi"
    done = export(known, out, "--object", 1)

    assert done.returncode == DONE
    with h5py.File(out) as file:
        np.testing.assert_array_equal(file["entry_1/image_1/data"], known.stitched(2, 1).object)
        np.testing.assert_array_equal(file["entry_1/image_1/coverage"], known.stitched(2, 1).coverage)
        assert file["entry_1/image_1/pixel_size_m"][()] == PIXEL_SIZE_M
        assert (file["entry_1/epoch"][()], file["entry_1/step"][()]) == (2, 20)


def test_files_made_from_pictures_state_their_precision(run_of, tmp_path):
    known, out = run_of("none"), tmp_path / "object.npz"
    done = export(known, out)
    export(known, tmp_path / "object.cxi")
    found = read_npz(out)

    assert "from pictures: amplitude ± " in done.stdout
    assert {"coverage", "positions_px"}.isdisjoint(found)
    np.testing.assert_array_equal(found["scanned"], known.stitched(2).coverage > 0)
    np.testing.assert_array_equal(found["object"], known.open().object().object)
    assert found["phase_precision_rad"] == pytest.approx(np.pi / 251)
    with h5py.File(tmp_path / "object.cxi") as file:
        assert file["entry_1/image_1/amp_precision"][()] == found["amp_precision"]
        np.testing.assert_array_equal(np.asarray(file["entry_1/image_1/mask"]) == 0, found["scanned"])
        assert "sample_1" not in file["entry_1"]


def test_a_folder_gets_all_artifacts_and_the_metrics(run_of, tmp_path):
    known, out = run_of("npz"), tmp_path / "run"
    done = export(known, out)

    files = {str(one.relative_to(out)) for one in out.rglob("*") if one.is_file()}
    assert done.returncode == DONE
    assert f"{len(files) - 1} files" in done.stdout
    assert {"metrics.csv", "recon_log/gallery.html", "epoch_02/summary.png", "epoch_01/patch_00/amp_pred.png"} <= files
    name = "epoch_02/stitched_object_01/arrays.npz"
    assert (out / name).read_bytes() == known.artifact(name).read_bytes()
    assert (out / "metrics.csv").read_text().startswith("epoch,step,recon/")


def test_a_folder_gets_the_tiles_of_large_objects(mlflow_database, tmp_path):
    target = new_run(mlflow_database, f"{tmp_path.name}-tiles", tmp_path / "artifacts")
    known, out = KnownRun(target, "none", tiles_from_px=20).log(1), tmp_path / "run"
    done = export(known, out)

    tile = "epoch_01/stitched/amp_pred_files/6/0_0.png"
    assert done.returncode == DONE
    assert (out / tile).read_bytes() == known.artifact(tile).read_bytes()
    assert {one for one in known.open().files() if "_files/" in one} == {
        str(one.relative_to(out)) for one in out.glob("epoch_01/*/*_files/*/*.png")
    }


def test_all_samples_of_a_large_scan_are_exported_though_its_table_has_the_worst_only(mlflow_database, tmp_path):
    target = new_run(mlflow_database, f"{tmp_path.name}-misfit", tmp_path / "artifacts")
    known, out = KnownRun(target, "npz", misfit=0.3).log(1), tmp_path / "object.npz"
    table = known.artifact("epoch_01/stitched/misfit.csv")
    table.write_text("\n".join(table.read_text().splitlines()[:3]) + "\n")  # as if only two rows were kept

    assert export(known, out).returncode == DONE
    assert out.read_bytes() == known.artifact("epoch_01/stitched/arrays.npz").read_bytes()
    assert len(known.open().misfit().samples) == 2
    assert len(known.open().object().r_factor) == 15


def test_a_folder_of_one_epoch_has_no_other(run_of, tmp_path):
    done = export(run_of("npz"), tmp_path / "run", "--epoch", "2")

    assert done.returncode == DONE
    assert {one.name for one in (tmp_path / "run").iterdir()} == {"metrics.csv", "epoch_02"}


@pytest.mark.parametrize("name", ["object.npz", "folder"])
def test_existing_files_are_replaced_only_on_request(run_of, tmp_path, name):
    out = tmp_path / name
    before = out / "mine" if name == "folder" else out
    before.parent.mkdir(exist_ok=True)
    before.write_text("mine")
    refused = export(run_of("none"), out)

    assert (refused.returncode, before.read_text()) == (ERROR, "mine")
    assert "exists; choose another name, or replace it with --force" in refused.stderr
    assert export(run_of("none"), out, "--force").returncode == DONE


def test_a_file_that_cannot_be_written_leaves_nothing_behind(run_of, tmp_path):
    (tmp_path / "object.npz").mkdir()
    done = export(run_of("none"), tmp_path / "object.npz", "--force")

    assert done.returncode == ERROR
    assert "IsADirectoryError" in done.stderr
    assert [one.name for one in tmp_path.iterdir()] == ["object.npz"]


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("object.mat", (), "unknown suffix; use .npz, .cxi, .h5"),
        ("folder", ("--object", 1), "--object needs a file"),
        ("object.npz", ("--epoch", 9), "Epoch 9 is not logged"),
        ("object.npz", ("--object", 9), "no stitched object 9"),
        ("object.npz", ("--tracking-uri", "sqlite:////absent.db"), "there is no database"),
    ],
)
def test_what_cannot_be_exported_is_reported_and_writes_nothing(run_of, tmp_path, out, options, message):
    done = export(run_of("none"), tmp_path / out, *options)

    assert (done.returncode, done.stdout) == (ERROR, "")
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []
