"""Execute the tutorial notebook and keep its outputs: GitHub and the documentation site show them.

python scripts/docs/notebook.py     # rewrites docs/tutorial.ipynb
"""

import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "tutorial.ipynb"
_TIMEOUT_S = 300


def executed(notebook: NotebookNode) -> NotebookNode:
    """Execute a notebook in an empty folder.

    Returns the notebook with its outputs, without paths of this machine and without execution times.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell raised an error.
    """
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=_TIMEOUT_S, resources={"metadata": {"path": folder}})
        client.record_timing = False
        text = nbformat.writes(client.execute()).replace(str(Path(folder).resolve()), "/home/me")
    return nbformat.reads(text, as_version=nbformat.NO_CONVERT)


if __name__ == "__main__":
    os.environ |= {"MLFLOW_LOGGING_LEVEL": "WARNING", "PYTHONWARNINGS": "ignore:IProgress not found"}
    nbformat.write(executed(nbformat.read(NOTEBOOK, as_version=4)), NOTEBOOK)
