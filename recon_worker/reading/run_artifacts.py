"""The artifacts of one fit of an MLflow run, as local files, and the run's metrics.

Listings are kept until `forget`. Artifacts of a local store are read in place; others are downloaded once, to a
temporary folder that is removed with this object.
"""

import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from recon_worker.spool.outbox import is_artifact_name
from recon_worker.spool.run_target import RunTarget
from recon_worker.system.errors import reason
from recon_worker.system.uris import shown
from recon_worker.upload.mlflow_client import artifact_store, connect, local_artifact, without_mlflow_tracebacks
from recon_worker.upload.resume import fits_of, folder_of_number

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

_T = TypeVar("_T")
_EPOCH = re.compile(r"epoch_(\d{2,9})")
_REFINED = re.compile(r"refined(_object_\d{1,9})?/([A-Za-z0-9_]+\.png|arrays\.(npz|h5))")


class ReadError(RuntimeError):
    """A run or an artifact cannot be read. The message names it and gives the reason, without credentials."""


@contextmanager
def mlflow_errors(what: str) -> Iterator[None]:
    """Turn any error of MLflow's client into a ReadError that says what cannot be done."""
    try:
        with without_mlflow_tracebacks():
            yield
    except ReadError:
        raise
    except Exception as error:
        raise ReadError(f"{what}: {reason(error)}") from None  # the original may quote the URI with its password


def is_known(name: str) -> bool:
    """Return whether a name is one that this program gives to artifacts."""
    return is_artifact_name(name) or _REFINED.fullmatch(name) is not None


class RunArtifacts:
    """The artifacts and metrics of one fit of a run.

    Args:
        run_id: MLflow run.
        tracking_uri: MLflow server or database.
        fit: Number of the fit, from 1; None: the latest.

    Raises:
        ReadError: The run cannot be read, or has no such fit.
    """

    def __init__(self, run_id: str, tracking_uri: str, fit: int | None) -> None:
        self._target, self._number = RunTarget(run_id=run_id, tracking_uri=tracking_uri), fit
        self._listings = dict[str, frozenset[str]]()
        self.forget()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without connection and downloads, which copies and other processes create themselves."""
        return {name: value for name, value in vars(self).items() if name not in ("_client", "_store", "_downloads")}

    def __str__(self) -> str:
        return f"run {shown(self._target.run_id)} at {shown(self._target.tracking_uri)}"

    def forget(self) -> None:
        """Read the run again, and drop listings and downloads."""
        self._listings.clear()
        if "_downloads" in vars(self):
            shutil.rmtree(self._downloads, ignore_errors=True)
        with mlflow_errors(f"{self} cannot be opened"):
            self.run: Run = self._client.get_run(self._target.run_id)
            """The run in MLflow, as it was last read."""
        fits = max(1, len(fits_of(self.run.data.tags)))
        number = fits if self._number is None else self._number
        if not 1 <= number <= fits:
            raise ReadError(f"{self} has no fit {number}: it has {fits}, counted from 1.")
        self._folder = folder_of_number(number)

    def epoch_folders(self) -> list[tuple[int, str]]:
        """Return (epoch, folder) of each folder of an epoch, sorted."""
        found = (_EPOCH.fullmatch(name) for name in self.names(""))
        return sorted((int(match[1]), match[0]) for match in found if match)

    def files_below(self, folder: str) -> Iterator[str]:
        """Yield the names of the files in a folder and in those below it."""
        for base in self.names(folder):
            name = f"{folder}/{base}"
            if "." in base:
                yield name
            else:
                yield from self.files_below(name)

    def names(self, folder: str) -> frozenset[str]:
        """Return the names of the files and folders in a folder of the fit; empty if it does not exist.

        Raises:
            ReadError: The artifacts cannot be listed.
        """
        if folder not in self._listings:
            path = self._path(folder)
            with mlflow_errors(f"The artifacts of {self} cannot be listed"):
                found = self._store.list_artifacts(path or None)
            self._listings[folder] = frozenset(one.path.rpartition("/")[2] for one in found)
        return self._listings[folder]

    def has(self, name: str) -> bool:
        """Return whether the fit has an artifact. Raises the same errors as `names`."""
        folder, _, base = name.rpartition("/")
        return base in self.names(folder)

    def file(self, name: str) -> Path:
        """Return an artifact as a local file. It belongs to this object or to the store: do not change it.

        Raises:
            ReadError: The artifact does not exist, was not written by this program, or cannot be downloaded.
        """
        if not is_known(name):
            raise ReadError(f"{name!r} is not the name of a reconstruction's artifact, such as epoch_05/summary.png.")
        if not self.has(name):
            raise ReadError(f"{name} is not in {self}{self.perhaps_later()}.")
        with mlflow_errors(f"{name} of {self} cannot be read"):
            return local_artifact(self._store, self._path(name), lambda: self._downloads)

    def decoded(self, name: str, decode: Callable[[Path], _T]) -> _T:
        """Decode an artifact.

        Raises:
            ReadError: As `file`, or the content is damaged.
        """
        file = self.file(name)
        try:
            return decode(file)
        except ImportError as error:
            raise ReadError(f"{name} cannot be read: {error}. Install it: pip install h5py") from error
        except MemoryError:
            raise
        except Exception as error:  # zipfile, NumPy, h5py and Pillow raise many types for a damaged file
            by_system = isinstance(error, OSError) and error.errno is not None
            what = "cannot be read" if by_system else "is damaged"
            raise ReadError(f"{name} of {self} {what}: {reason(error)}") from error

    def history(self, key: str) -> dict[int, float]:
        """Return the latest value of a metric at each step.

        Raises:
            ReadError: The metric cannot be read.
        """
        with mlflow_errors(f"{key} of {self} cannot be read"):
            history = self._client.get_metric_history(self._target.run_id, self._path(key))
        return {one.step: one.value for one in sorted(history, key=lambda one: one.timestamp)}

    def metric_names(self) -> list[str]:
        """Return the sorted names of the metrics of the fit's reconstructions, such as recon/stitched/amp_mae."""
        prefix = self._path("recon/")
        names = (name for name in self.run.data.metrics if name.startswith(prefix))
        return sorted(name.removeprefix(self._path("")).lstrip("/") for name in names)

    def perhaps_later(self) -> str:
        """Return the advice to look again, if the run is unfinished; else an empty text."""
        return " yet; refresh() looks again" if str(self.run.info.status) in ("RUNNING", "SCHEDULED") else ""

    def _path(self, name: str) -> str:
        return "/".join(filter(None, (self._folder, name)))

    @cached_property
    def _client(self) -> "MlflowClient":
        return connect(self._target)

    @cached_property
    def _store(self) -> "ArtifactRepository":
        return artifact_store(self._client, self.run)

    @cached_property
    def _downloads(self) -> Path:
        folder = tempfile.mkdtemp(prefix="recon-log-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)
