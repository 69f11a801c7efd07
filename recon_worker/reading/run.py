"""`open_run`: the reconstructions of an MLflow run as data."""

import math
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from recon_worker.pictures.arrays import DECODERS
from recon_worker.pictures.gallery.entry import GalleryEntry
from recon_worker.pictures.labels import object_folder
from recon_worker.pictures.png import DecodedImage, read_png
from recon_worker.reading.logged import (
    LoggedObject,
    LoggedPatch,
    kinds_of,
    object_of_arrays,
    object_of_pictures,
    patch_of_pictures,
    read_gallery,
)
from recon_worker.reading.notebook import run_html
from recon_worker.reading.run_artifacts import ReadError, RunArtifacts, is_known
from recon_worker.reconstruction.misfit import SampleMisfit
from recon_worker.snapshot.artifact import GALLERY
from recon_worker.system.databases import with_absolute_path
from recon_worker.system.uris import shown

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

_T = TypeVar("_T")
_GALLERY = f"recon_log/{GALLERY}"
_PATCH = re.compile(r"patch_(\d{1,9})")
_OF_RUN = re.compile(r"recon_log|refined(_object_\d{1,9})?")
_OWN_TAGS = ("mlflow.", "recon_log.")
_OBJECT = re.compile(r"stitched(?:_object_(\d{1,9}))?")


def open_run(run_id: str, tracking_uri: str | None = None, *, fit: int | None = None) -> "ReconRun":
    """Open the reconstructions of an MLflow run, finished or not. Nothing in MLflow is changed.

    Args:
        run_id: MLflow run.
        tracking_uri: MLflow server or database; None: MLflow's current one.
        fit: Number of the fit, from 1, if training was started from scratch several times in the run; None: the latest.

    Raises:
        ReadError: There is no such run or fit, or the server does not answer.
    """
    if tracking_uri is None:
        import mlflow

        tracking_uri = mlflow.get_tracking_uri()
    return ReconRun(RunArtifacts(run_id, with_absolute_path(str(tracking_uri)), fit))


class ReconRun:
    """The reconstructions of a run; create it with `open_run`.

    Artifacts are read on first use, and cached. What an unfinished run logs later appears after `refresh`.
    Methods take an epoch as numbered in training, or -1 for the last one logged, -2 for the one before.
    """

    def __init__(self, artifacts: RunArtifacts) -> None:
        self._artifacts = artifacts
        self._entries: list[GalleryEntry] | None = None

    def __repr__(self) -> str:
        return f"<ReconRun {self.name!r}, {self._artifacts}, {self.status}>"

    def _repr_html_(self) -> str:
        try:
            return run_html(self.name, self.run_id, self.status, self.epochs, self.gallery_entries())
        except ReadError as error:
            return run_html(self.name, self.run_id, self.status, [], [], str(error))

    def refresh(self) -> None:
        """Read the run again, and drop the artifacts read so far, so that later logged ones become visible."""
        self._entries = None
        self._artifacts.forget()

    @property
    def run_id(self) -> str:
        """MLflow's id of the run."""
        return str(self._artifacts.run.info.run_id)

    @property
    def name(self) -> str:
        """Name of the run."""
        return str(self._artifacts.run.info.run_name)

    @property
    def status(self) -> str:
        """MLflow's status of the run, such as "RUNNING" or "FINISHED"."""
        return str(self._artifacts.run.info.status)

    @property
    def experiment_id(self) -> str:
        """MLflow's id of the run's experiment."""
        return str(self._artifacts.run.info.experiment_id)

    @property
    def artifact_uri(self) -> str:
        """Where MLflow keeps the artifacts of the run."""
        return str(self._artifacts.run.info.artifact_uri)

    @property
    def settings(self) -> dict[str, str]:
        """Parameters and tags of the run, except those that MLflow and this package set themselves."""
        data = self._artifacts.run.data
        own = {name: value for name, value in data.tags.items() if not name.startswith(_OWN_TAGS)}
        return {**own, **data.params}

    @property
    def epochs(self) -> list[int]:
        """Epochs that have artifacts, sorted; the last one of an unfinished run may be incomplete."""
        return list(self._epoch_folders())

    @property
    def pixel_size_m(self) -> float | None:
        """Side of an object pixel, metres; None: unknown."""
        return next((entry.pixel_size_m for entry in reversed(self.gallery_entries())), None)

    @property
    def metrics(self) -> "pd.DataFrame":
        """Metrics of the reconstructions as MLflow has them: a row per epoch, columns "step" and "recon/...".

        NaN where a metric is undefined. The row of an epoch appears with its entry in the gallery.
        """
        import pandas as pd

        steps = pd.Series({entry.epoch: entry.step for entry in self.gallery_entries()}, dtype="int64")
        columns: dict[str, Any] = {"step": steps}  # pandas warns if many columns are added one by one
        for name in self._artifacts.metric_names():
            history = self._artifacts.history(name)
            columns[name] = [history.get(step, math.nan) for step in steps]
        table = pd.DataFrame(columns, index=steps.index).rename_axis("epoch")
        # The gallery of a resumed training has the epochs of an earlier run, too.
        return table[table.drop(columns="step").notna().any(axis=1) | table.index.isin(self.epochs)]

    def gallery_entries(self) -> list[GalleryEntry]:
        """Return the entries of the run's gallery, one for each epoch; none before the first gallery."""
        if self._entries is None:
            has = self._artifacts.has(_GALLERY)
            self._entries = self._artifacts.decoded(_GALLERY, read_gallery) if has else []
        return list(self._entries)

    def objects(self, epoch: int = -1) -> list[int]:
        """Return the numbers of the stitched objects of an epoch; [0] if the scan has one."""
        found = (_OBJECT.fullmatch(name) for name in self._artifacts.names(self._folder(epoch)[1]))
        return sorted(int(match[1] or 0) for match in found if match)

    def patches(self, epoch: int = -1) -> list[int]:
        """Return the dataset indices of the sample patches of an epoch."""
        return sorted(self._patch_folders(epoch))

    def object(self, epoch: int = -1, number: int = 0) -> LoggedObject:
        """Return a stitched object: exact from logged arrays, else from the pictures to within their precision.

        Args:
            epoch: Epoch of the training, or -1 for the last one.
            number: Number of the object, if the scan has several.

        Raises:
            ReadError: The epoch or the object is not logged, only partly uploaded, or damaged.
        """
        epoch, folder = self._folder(epoch)
        if number not in self.objects(epoch):
            known = f"; it has {self.objects(epoch)}" if self.objects(epoch) else ""
            raise ReadError(
                f"Epoch {epoch} of {self._artifacts} has no stitched object {number}"
                f"{self._artifacts.perhaps_later()}{known}."
            )
        return self._object(f"{folder}/{object_folder('stitched', number)}", epoch)

    def refined(self, number: int = 0) -> LoggedObject:
        """Return the refined object that was logged to the run's `refined` folder, as `make demo` does.

        Raises:
            ReadError: There is none, or it is damaged.
        """
        return self._object(object_folder("refined", number), None)

    def evolution(self, number: int = 0) -> Iterator[LoggedObject]:
        """Yield a stitched object epoch by epoch, each read when it is reached. Omits epochs without it.

        Raises:
            ReadError: As `object`.
        """
        for epoch in self.epochs:
            if number in self.objects(epoch):
                yield self.object(epoch, number)

    def patch(self, epoch: int, index: int) -> LoggedPatch:
        """Return a sample patch and its diffraction, from the pictures to within their precision.

        Args:
            epoch: Epoch of the training, or -1 for the last one.
            index: Dataset index of the patch, one of `patches`.

        Raises:
            ReadError: The epoch or the patch is not logged, only partly uploaded, or damaged.
        """
        epoch, folder = self._folder(epoch)
        folders = self._patch_folders(epoch)
        if index not in folders:
            raise ReadError(
                f"Patch {index} is not logged in epoch {epoch} of {self._artifacts}"
                f"{self._artifacts.perhaps_later()}; logged: {sorted(folders)}."
            )
        return self._of_pictures(f"{folder}/{folders[index]}", epoch, partial(patch_of_pictures, index=index))

    def misfit(self, epoch: int = -1, number: int = 0) -> SampleMisfit | None:
        """Return the misfit of the diffraction of the samples of a stitched object; None if it is not logged.

        It is not logged if the network predicts no diffraction, or the measured patterns are unknown. Of more than
        10 000 samples, only the worst are returned; if arrays are logged, `object` has the values of all.

        Raises:
            ReadError: The epoch is not logged, or the table is damaged.
        """
        folder = f"{self._folder(epoch)[1]}/{object_folder('stitched', number)}"
        if "misfit.csv" not in self._artifacts.names(folder):
            return None
        return self._artifacts.decoded(
            f"{folder}/misfit.csv", lambda file: SampleMisfit.from_csv(file.read_text("utf-8"))
        )

    def picture(self, epoch: int, name: str) -> DecodedImage:
        """Return the values of a picture, such as "stitched/phase_error" or "patch_272/diff_obs_logI".

        Raises:
            ReadError: The epoch or the picture is not logged, or it shows no scalar values, such as complex.png.
        """
        return self._artifacts.decoded(f"{self._folder(epoch)[1]}/{name.removesuffix('.png')}.png", read_png)

    def file(self, name: str) -> Path:
        """Return an artifact as a local file, such as "epoch_05/summary.png". It must not be changed.

        A downloaded file is removed by `refresh`, and when this run is no longer referred to.

        Raises:
            ReadError: The artifact is not logged, or does not belong to the reconstructions.
        """
        return self._artifacts.file(name)

    def files(self, epoch: int | None = None) -> list[str]:
        """Return the names of an epoch's artifacts, for `file`; None: of all epochs and of the whole run."""
        folders = [self._folder(epoch)[1]] if epoch is not None else [*self._epoch_folders().values()]
        folders += [] if epoch is not None else [one for one in self._artifacts.names("") if _OF_RUN.fullmatch(one)]
        names = (name for folder in folders for name in self._artifacts.files_below(folder))
        return sorted(filter(is_known, names))

    def _epoch_folders(self) -> dict[int, str]:
        """Return the folder of each epoch, sorted by epoch.

        A run may have epoch_05 and epoch_005, of trainings of 50 and 100 epochs. The gallery names the later one.
        """
        found = self._artifacts.epoch_folders()
        newest = self.gallery_entries() if len(dict(found)) < len(found) else []
        return dict([*found, *((one.epoch, one.folder) for one in newest if (one.epoch, one.folder) in found)])

    def _folder(self, epoch: int) -> tuple[int, str]:
        """Return an epoch as numbered in training, and its folder."""
        folders, later = self._epoch_folders(), self._artifacts.perhaps_later()
        if not folders:
            raise ReadError(f"{self._artifacts} has no reconstructions in {shown(self.artifact_uri)}{later}.")
        if -len(folders) <= epoch < 0:
            epoch = list(folders)[epoch]
        if epoch not in folders:
            known = ", ".join(map(str, folders))
            raise ReadError(f"Epoch {epoch} is not logged in {self._artifacts}{later}; logged: {known}.")
        return int(epoch), folders[epoch]  # pandas and NumPy have integers of their own

    def _patch_folders(self, epoch: int) -> dict[int, str]:
        found = map(_PATCH.fullmatch, sorted(self._artifacts.names(self._folder(epoch)[1])))
        return {int(match[1]): match[0] for match in found if match}

    def _object(self, folder: str, epoch: int | None) -> LoggedObject:
        names = self._artifacts.names(folder)
        for extension, decode in DECODERS.items():
            if f"arrays.{extension}" in names:
                return object_of_arrays(self._artifacts.decoded(f"{folder}/arrays.{extension}", decode))
        return self._of_pictures(
            folder, epoch, lambda found, **when: object_of_pictures(found, pixel_size_m=self.pixel_size_m, **when)
        )

    def _of_pictures(self, folder: str, epoch: int | None, make: Callable[..., _T]) -> _T:
        """Make an image of the pictures in a folder. Raises ReadError if one is missing or damaged, or they differ."""
        names = self._artifacts.names(folder)
        pictures = {kind: self._artifacts.decoded(f"{folder}/{kind}.png", read_png) for kind in kinds_of(names)}
        try:
            return make(pictures, epoch=epoch, step=self._step(epoch))
        except ValueError as error:  # some may be of an earlier training
            raise ReadError(f"{folder} of {self._artifacts} cannot be read: {error}.") from error

    def _step(self, epoch: int | None) -> int | None:
        return next((entry.step for entry in self.gallery_entries() if entry.epoch == epoch), None)
