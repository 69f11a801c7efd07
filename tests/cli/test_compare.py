"""`recon-worker compare` shows runs on one page, and refuses what cannot be compared before it writes anything."""

import re
from dataclasses import replace

import mlflow
import numpy as np
import pytest

from recon_worker.client.inline_backend import InlineBackend
from tests.cli.spools import DONE, ERROR, recon_worker
from tests.pictures.pages import data_of
from tests.reading.known_run import KnownRun, new_run, two_objects
from tests.samples import layout_of, log_epoch

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("plain_sheets")]


@pytest.fixture(scope="module")
def uri(mlflow_database):
    return mlflow_database


@pytest.fixture(scope="module")
def runs(uri, tmp_path_factory):
    """Two runs of an experiment, with different settings and epochs, and one without reconstructions."""
    folder = tmp_path_factory.mktemp("compare")
    first = KnownRun(new_run(uri, folder.name, folder / "artifacts"), "none").log(1, 2, 3)
    client = first.client
    targets = [
        replace(first.target, run_id=client.create_run(experiment_of(first), run_name=name).info.run_id)
        for name in ("second", "empty")
    ]
    second = KnownRun(targets[0], "none").log(1, 2)
    empty = KnownRun(targets[1], "none")
    for run, rate in ((first, 0.001), (second, 0.01)):
        client.log_param(run.target.run_id, "learning_rate", rate)
        client.set_tag(run.target.run_id, "data", "scan.npz")
    return first, second, empty


def ids(*runs):
    return [run.target.run_id for run in runs]


def experiment_of(known):
    return known.client.get_run(known.target.run_id).info.experiment_id


def compare(uri, *arguments):
    return recon_worker("compare", *arguments, "--tracking-uri", uri)


def test_the_page_holds_the_runs_with_their_epochs_and_the_settings_that_differ(uri, runs, tmp_path):
    first, second, _ = runs
    done = compare(uri, *ids(first, second), "--out", tmp_path / "new" / "compare.html")
    data = data_of(tmp_path / "new" / "compare.html")

    assert (done.returncode, done.stderr) == (DONE, "")
    assert "2 runs, " in done.stdout
    assert [run["id"] for run in data["runs"]] == ids(first, second)
    assert [[entry["epoch"] for entry in run["entries"]] for run in data["runs"]] == [[1, 2, 3], [1, 2]]
    assert data["settings"] == {"learning_rate": ["0.001", "0.01"]}
    assert data["views"] == ["stitched", "stitched_object_01"]


def test_the_common_range_covers_those_of_all_runs(uri, runs, tmp_path):
    compare(uri, *ids(*runs[:2]), "--out", tmp_path / "compare.html")
    colours = data_of(tmp_path / "compare.html")["colours"]["stitched_object_01"]
    own = [run.open().picture(-1, "stitched_object_01/amp_pred").value_range for run in runs[:2]]

    assert colours["amp"]["range"] == [min(low for low, _ in own), max(high for _, high in own)]
    np.testing.assert_allclose(colours["phase"]["range"], [-np.pi, np.pi])


def test_pictures_are_those_of_the_gallery_to_the_last_bit(uri, runs, tmp_path):
    compare(uri, *ids(*runs[:2]), "--out", tmp_path / "compare.html")
    gallery, page = (data_of(one) for one in (runs[0].artifact("recon_log/gallery.html"), tmp_path / "compare.html"))
    shown = page["runs"][0]["entries"][2]["views"][0]["pictures"]

    assert set(shown) == {"amp_pred", "amp_gt", "phase_pred", "phase_gt"}
    for one in shown.values():
        assert page["pictures"][one["png"]] == gallery["pictures"][one["png"]]


def other_size(uri, name, folder):
    """A run whose object is larger than that of a known run."""
    target, scan = new_run(uri, name, folder), two_objects("none")
    larger = replace(scan.geometry, positions_px=scan.geometry.positions_px * 1.5)
    scan, backend = replace(scan, geometry=larger, ground_truth=()), InlineBackend()
    backend.start(target, scan, layout_of(scan))
    log_epoch(backend, layout_of(scan), 1)
    return target.run_id


def test_objects_of_different_sizes_are_named_with_their_sizes(uri, runs, tmp_path):
    other = other_size(uri, f"{tmp_path.name} larger", tmp_path / "artifacts")
    done = compare(uri, *ids(runs[0]), other, "--out", tmp_path / "compare.html")

    assert (done.returncode, done.stdout) == (ERROR, "")
    assert re.search(
        rf"different sizes \(stitched\).*{ids(runs[0])[0]}\): 33 x 35 px; .*{other}\): \d+ x \d+ px", done.stderr
    )
    assert not (tmp_path / "compare.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("FIRST", "0123"), r"run 0123 at sqlite:.* cannot be opened: .*not found"),
        (("FIRST", "EMPTY"), r"run empty \(EMPTY\) has no reconstructions in file:\S+ yet"),
        (("FIRST", "FIRST"), r"run FIRST is named twice"),
        (("FIRST",), r"a comparison shows 2 to 10 runs with reconstructions; here: 1"),
        ((), r"name the runs, or an experiment"),
        (("FIRST", "SECOND", "--experiment", "x"), r"name the runs, or an experiment"),
        (("--experiment", "x", "--last", "11"), r"--last is 11; allowed: 2 to 10"),
        (("FIRST", "SECOND", "--last", "3"), r"--last needs --experiment"),
        (("--experiment", "absent"), r"there is no experiment 'absent' at sqlite:"),
    ],
)
def test_what_cannot_be_compared_is_named_and_writes_nothing(uri, runs, tmp_path, arguments, message):
    named = dict(zip(("FIRST", "SECOND", "EMPTY"), ids(*runs), strict=True))
    done = compare(uri, *(named.get(one, one) for one in arguments), "--out", tmp_path / "compare.html")
    for name, run_id in named.items():
        message = message.replace(name, run_id)

    assert (done.returncode, done.stdout) == (ERROR, "")
    assert re.search(message, done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_patches_are_matched_by_their_index_whatever_its_number_of_digits(uri, runs, tmp_path):
    content = runs[0].artifact("recon_log/gallery.html").read_text()
    made = []
    for name, patch in (("one", "patch_00"), ("other", "patch_000")):
        made.append(runs[0].client.create_run(experiment_of(runs[0])).info.run_id)
        gallery = tmp_path / "gallery.html"
        gallery.write_text(content.replace('"stitched', f'"{name}').replace("patch_00", patch))
        runs[0].client.log_artifact(made[-1], str(gallery), "recon_log")
    done = compare(uri, *made, "--out", tmp_path / "compare.html")

    assert (done.returncode, done.stderr) == (DONE, "")
    assert data_of(tmp_path / "compare.html")["views"] == ["patch_0", "patch_1"]


def test_a_damaged_picture_in_a_gallery_is_an_error(uri, runs, tmp_path):
    damaged = runs[0].client.create_run(experiment_of(runs[0])).info.run_id
    gallery = tmp_path / "gallery.html"
    content = runs[0].artifact("recon_log/gallery.html").read_text()
    gallery.write_text(re.sub(r'": "iVBOR[^"]*"', '": "iVBORw0K"', content))
    runs[0].client.log_artifact(damaged, str(gallery), "recon_log")
    done = compare(uri, *ids(runs[0]), damaged, "--out", tmp_path / "compare.html")

    assert done.returncode == ERROR
    assert "a picture in the gallery of one of the runs is damaged" in done.stderr


def test_an_existing_file_is_replaced_only_on_request(uri, runs, tmp_path):
    out = tmp_path / "compare.html"
    out.write_text("mine")
    refused = compare(uri, *ids(*runs[:2]), "--out", out)

    assert (refused.returncode, out.read_text()) == (ERROR, "mine")
    assert "exists; choose another name, or replace a file with --force" in refused.stderr
    assert compare(uri, *ids(*runs[:2]), "--out", out, "--force").returncode == DONE
    assert len(data_of(out)["runs"]) == 2


def test_a_logged_comparison_is_a_run_that_names_what_it_compares(uri, runs):
    done = compare(uri, *ids(*runs[:2]), "--log")
    client = mlflow.MlflowClient(uri)
    run = client.get_run(re.search(r"logged as run (\w+)", done.stdout)[1])

    assert done.returncode == DONE
    assert run.data.tags["recon_log.compares"] == ",".join(ids(*runs[:2]))
    assert run.info.experiment_id == experiment_of(runs[0])
    assert run.info.status == "FINISHED"
    assert [one.path for one in client.list_artifacts(run.info.run_id)] == ["compare.html"]


def test_the_latest_runs_of_an_experiment_are_those_with_reconstructions(uri, runs, tmp_path):
    client = runs[0].client
    experiment = client.get_experiment(experiment_of(runs[0]))
    compare(uri, *ids(*runs[:2]), "--log")
    done = compare(uri, "--experiment", experiment.name, "--last", 2, "--out", tmp_path / "compare.html")

    assert done.returncode == DONE
    assert [run["id"] for run in data_of(tmp_path / "compare.html")["runs"]] == ids(*runs[:2])


def test_nothing_to_write_is_an_error(uri, runs):
    assert "use --out compare.html, --log, or both" in compare(uri, *ids(*runs[:2])).stderr
