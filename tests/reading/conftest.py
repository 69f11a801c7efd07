"""Runs with known reconstructions, for the tests of this folder."""

import pytest

from tests.reading.known_run import KnownRun, new_run


@pytest.fixture(scope="module")
def local(mlflow_database, tmp_path_factory):
    """Creates runs in the local database: local(name) -> RunTarget."""
    folder = tmp_path_factory.mktemp("reading")
    return lambda name: new_run(mlflow_database, f"{folder.name}-{name}", folder / name)


@pytest.fixture(scope="module")
def run_of(local):
    """Known runs of three epochs by the format of their arrays; tests do not change them."""
    made = {}

    def known(arrays_format):
        if arrays_format not in made:
            made[arrays_format] = KnownRun(local(arrays_format), arrays_format).log(1, 2, 3)
        return made[arrays_format]

    return known


@pytest.fixture
def fresh(local, request):
    """A run of this test without reconstructions, with pictures only."""
    return KnownRun(local(request.node.name.replace("[", "-").replace("]", "")), "none")
