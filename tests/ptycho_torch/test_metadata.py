"""The metadata text: values read, values refused, and defaults announced."""

import json
import warnings

import numpy as np
import pytest

from ptycho_torch.files.archive import DataError
from ptycho_torch.files.metadata import dump_metadata, grid_metadata, parse_metadata

GRID = {
    "size": 100,
    "offset": 2,
    "outer_offset_train": 6,
    "outer_offset_test": 12,
    "nimgs_train": 3,
    "nimgs_test": 1,
}


def _grid(**changes):
    return parse_metadata(json.dumps({"additional_parameters": {**GRID, **changes}}))


def test_written_metadata_reads_back_and_needs_no_pickle():
    array = dump_metadata(nphotons=1e6, gridsize=2, n_px=64, additional=GRID)

    metadata = parse_metadata(array.item())

    assert array.dtype.kind == "U"
    assert array.shape == ()
    assert (metadata.nphotons, metadata.gridsize, metadata.n_px) == (1e6, 2, 64)
    assert vars(grid_metadata(metadata, "file")) == GRID


def test_values_are_found_in_any_section():
    metadata = parse_metadata('{"physics_parameters": {"nphotons": 10}, "training_parameters": {"gridsize": 1}}')

    assert (metadata.nphotons, metadata.gridsize, metadata.n_px) == (10, 1, None)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", '"text"', "null", "3"])
def test_text_that_is_no_json_object_is_refused(text):
    with pytest.raises(DataError, match=r"scan\.npz"):
        parse_metadata(text, "scan.npz")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-1", "0", '"many"', "true", "[1]"])
def test_an_invalid_photon_count_is_refused(value):
    with pytest.raises(DataError, match="'nphotons' is"):
        parse_metadata(f'{{"physics_parameters": {{"nphotons": {value}}}}}')


def test_every_missing_grid_entry_is_announced_with_its_default():
    with pytest.warns(UserWarning, match="metadata has no") as caught:
        grid = grid_metadata(parse_metadata("{}"), "test.npz")

    assert (grid.size, grid.offset, grid.outer_offset_train, grid.outer_offset_test) == (392, 4, 8, 20)
    assert (grid.nimgs_train, grid.nimgs_test) == (2, 2)
    assert sorted(str(w.message).split("'")[1] for w in caught) == sorted(GRID)
    assert "test.npz: the metadata has no 'outer_offset_test'; using 20." in {str(w.message) for w in caught}


@pytest.mark.parametrize(("value", "read"), [(None, None), ("20", None), (2.5, None), (True, None), (20.0, 20), (0, 0)])
def test_grid_entries_that_are_no_whole_number_become_none(value, read):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grid = grid_metadata(_grid(outer_offset_test=value), "file")

    assert grid.outer_offset_test == read


def test_sections_of_another_type_are_ignored():
    assert parse_metadata('{"physics_parameters": [1], "additional_parameters": null}').nphotons is None


def test_metadata_array_is_a_text_of_the_format():
    document = json.loads(np.asarray(dump_metadata(nphotons=5.0, gridsize=1, n_px=16)).item())

    assert document["physics_parameters"] == {"nphotons": 5.0, "gridsize": 1, "N": 16}
    assert {"schema_version", "creation_info", "training_parameters", "data_transformations"} <= set(document)
