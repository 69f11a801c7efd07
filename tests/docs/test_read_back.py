"""The code of docs/how-to/read-back.md runs as it is printed, on a run of this program."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pytest

from tests.paths import REPOSITORY
from tests.reading.known_run import KnownRun, new_run

PAGE = (REPOSITORY / "docs" / "how-to" / "read-back.md").read_text()


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("plain_sheets")
def test_the_code_of_the_page_reads_a_run(new_database, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("agg")
    target = new_run(new_database(tmp_path), "page", tmp_path / "artifacts")
    known, names = KnownRun(target, "npz").log(1, 2), {"run_id": target.run_id}
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL):
        exec(block, names)
    plt.close("all")

    np.testing.assert_array_equal(names["obj"].object, known.stitched(2).object)
    assert [axis.get_title() for axis in names["axes"]] == ["epoch 1", "epoch 2", "truth"]
    assert names["error"].unit == "rad"
