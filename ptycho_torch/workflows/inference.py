"""Reconstructs a scan with a trained network: checkpoint and data file in, pictures, arrays and metrics out.

Prediction, stitching, metrics and rendering are shared with the logging during training and use the same batches, so
that the metrics equal those logged for the checkpoint's epoch.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ptycho_torch.checks import ConfigError, make_directory
from ptycho_torch.config import ScanKind
from ptycho_torch.data.builders import Split, grid_dataset, raw_dataset
from ptycho_torch.data.dataset import Item, PtychoDataset
from ptycho_torch.files.npz import DataError, GridLines, RawScan, load_scan
from ptycho_torch.inference_config import InferenceConfig
from ptycho_torch.workflows.checkpoint import Recipe, Trained, load_trained
from ptycho_torch.workflows.reconstruction import Reconstruction, write
from ptycho_torch.workflows.refinement import UnrefinableError, refine
from recon_worker.capture.adapters import PtychoPinnAdapter
from recon_worker.capture.capture import Capture, Measured
from recon_worker.capture.copying import Copier
from recon_worker.capture.dataset import read_scan
from recon_worker.capture.plan import CapturePlan, ScanOptions, batch_indices, choose_indices
from recon_worker.lightning.extra_pass import missing_samples, predict_samples
from recon_worker.pictures.colour_ranges import ColourRanges
from recon_worker.pictures.history import History
from recon_worker.pictures.snapshot_figures import RefinedObject
from recon_worker.reconstruction.stitching import stitch
from recon_worker.snapshot.artifact import Failure
from recon_worker.snapshot.geometry import PositionGeometry
from recon_worker.snapshot.records import Scan, Snapshot
from recon_worker.system.standard_streams import shows_progress

_FORMATS: Mapping[ScanKind, str] = {"raw": "raw scans (diff3d, xcoords, ycoords)", "grid_lines": "grid-lines files"}


def reconstruct(config: InferenceConfig) -> Reconstruction:
    """Reconstruct a scan and write `stitched/`, `patch_*/`, `summary.png`, `metrics.json` and `scales.json`.

    Raises:
        ConfigError: Settings conflict, the checkpoint is unusable, or the output cannot be written.
        DataError: The data file is invalid, or does not match the network.
    """
    history = History(_scales(config.scales))
    trained = load_trained(config.checkpoint)
    trained = replace(trained, recipe=_changed(trained.recipe, config))
    dataset = _dataset(config, trained)
    scan, plan = _plan(config, trained.recipe, dataset)
    _check_refinable(config, trained, scan)
    make_directory("output_dir", config.output_dir)
    snapshot, device = _predict(config, trained, dataset, plan)
    refined = _refine(config, dataset, scan, snapshot, device)
    source = {"checkpoint": str(config.checkpoint), "data_file": str(config.data_file)}
    return write(config.output_dir, scan, snapshot, history, source, refined)


def _check_refinable(config: InferenceConfig, trained: Trained, scan: Scan) -> None:
    if not config.refine_passes:
        return
    if not isinstance(scan.geometry, PositionGeometry):
        raise ConfigError("refine_passes needs a raw scan, in which each pattern has its own position.")
    if trained.model.model_type == "supervised":
        raise ConfigError("refine_passes needs a network of model_type pinn: a supervised network uses no probe.")
    if config.max_stitch_samples is not None:
        raise ConfigError("refine_passes needs the whole scan. Leave max_stitch_samples out.")


def _refine(
    config: InferenceConfig, dataset: PtychoDataset, scan: Scan, snapshot: Snapshot, device: torch.device
) -> Sequence[RefinedObject | Failure]:
    if not config.refine_passes or not isinstance(scan.geometry, PositionGeometry):
        return ()
    (stitched,) = stitch(scan.geometry, snapshot.arrays.stitch_object(), snapshot.arrays.stitch_filled)
    try:
        refined = refine(dataset, stitched, scan.geometry, config.refine_passes, device)
    except UnrefinableError as error:
        return [Failure("refined", str(error))]
    return [RefinedObject(refined.image, refined.metrics)]


def _scales(path: Path | None) -> ColourRanges:
    try:
        return ColourRanges() if path is None else ColourRanges.from_json(path.read_bytes())
    except ValueError as error:
        raise ConfigError(f"scales: {path}: {error}") from error


def _changed(recipe: Recipe, config: InferenceConfig) -> Recipe:
    """Override the recipe of the training run with the given settings."""
    if config.num_patches is not None:
        recipe = replace(recipe, num_patches=config.num_patches, fixed_indices=None)
    given = {
        "fixed_indices": config.fixed_indices,
        "stitch_weight": config.stitch_weight,
        "remove_ramp": config.ramp,
        "pixel_size_m": config.pixel_size,
    }
    return replace(recipe, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def _dataset(config: InferenceConfig, trained: Trained) -> PtychoDataset:
    """Read the scan as a test set, with the normalisation constants of the training set."""
    path, kind = config.data_file, trained.recipe.scan_kind
    try:
        scan = load_scan(path, kind, allow_pickled_metadata=config.allow_pickled_metadata)
    except DataError as error:
        raise DataError(f"{error} The network was trained on {_FORMATS[kind]}.") from error
    n_px, gridsize = trained.model.hparams["n_px"], trained.model.hparams["gridsize"]
    found = scan.diffraction.shape[-1]
    if found != n_px:
        raise DataError(
            f"{path.name}: patterns are {found} x {found} px, but the network was trained on {n_px} x {n_px} px. Give "
            "a checkpoint of a training run with patterns of this size."
        )
    if isinstance(scan, RawScan):
        return raw_dataset(scan, gridsize=gridsize, constants=trained.constants, source=path.name)
    return _grid_dataset(scan, trained, path.name)


def _grid_dataset(scan: GridLines, trained: Trained, source: str) -> PtychoDataset:
    channels, gridsize = scan.diffraction.shape[1], trained.model.hparams["gridsize"]
    if channels != gridsize**2:
        raise DataError(
            f"{source}: samples have {channels} channels, but the network was trained with gridsize {gridsize}. Give "
            "a checkpoint of a training run with this gridsize."
        )
    # Only test files have these keys. The samples of a training file are shuffled and cannot be stitched.
    split: Split = "train" if scan.ground_truth is None and scan.norm_Y_I is None else "test"
    return grid_dataset(
        scan, split=split, model_type=trained.model.model_type, constants=trained.constants, source=source
    )


def _plan(config: InferenceConfig, recipe: Recipe, dataset: PtychoDataset) -> tuple[Scan, CapturePlan]:
    options = ScanOptions(
        num_patches=recipe.num_patches,
        fixed_indices=recipe.fixed_indices,
        log_stitch=True,
        max_stitch_samples=config.max_stitch_samples,
        stitch_weight=recipe.stitch_weight,
        remove_ramp=recipe.remove_ramp,
        pixel_size_m=recipe.pixel_size_m,
        arrays=config.arrays,
        tiles_from_px=0,
    )
    try:
        indices = choose_indices(len(dataset), options)
    except ValueError as error:
        raise ConfigError(f"{error} Choose others with --fixed_indices, or set --num_patches.") from error
    data = read_scan(dataset, PtychoPinnAdapter(), indices, options)
    return data.scan, CapturePlan(fixed_indices=indices, layout=data.layout)


class _Watched(Dataset[Item]):
    """Dataset that advances a progress bar with each sample read."""

    def __init__(self, dataset: PtychoDataset, bar: "tqdm[Any]") -> None:
        self._dataset, self._bar = dataset, bar

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Item:
        self._bar.update()
        return self._dataset[index]


class _TakePredictions(Callback):
    """Copies the predictions made in validation."""

    capture: Capture

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's own type
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Copy the predictions of a batch."""
        adapter = PtychoPinnAdapter()
        predictions = adapter.predictions(outputs)
        assert predictions is not None
        measured = Measured("the batch", lambda: adapter.observed(batch))
        self.capture.add(self.capture.targets[batch_idx], predictions, measured)


def _predict(
    config: InferenceConfig, trained: Trained, dataset: PtychoDataset, plan: CapturePlan
) -> tuple[Snapshot, torch.device]:
    """Predict as in training: in validation or, without a test file, in an extra pass. Also returns the device."""
    taking = _TakePredictions()
    trainer = _trainer(config, trained.recipe, taking)
    device, precision = trainer.strategy.root_device, trainer.precision_plugin
    with tqdm(desc="Predicting", total=len(dataset), unit="sample", leave=False, disable=not shows_progress()) as bar:
        loader = DataLoader(_Watched(dataset, bar), batch_size=trained.recipe.batch_size)
        with _capturing(plan, batch_indices(loader), device) as capture:
            if trained.recipe.validated:
                taking.capture = capture
                trainer.validate(trained.model, loader, verbose=False)
                capture.finish()
            else:
                model = trained.model.to(device)
                indices = missing_samples(capture, plan)
                predict_samples(
                    capture,
                    indices,
                    dataset=loader.dataset,
                    adapter=PtychoPinnAdapter(),
                    module=model,
                    precision=precision,
                )
                capture.finish()
    snapshot = Snapshot(
        epoch=trained.epoch,
        step=trained.step,
        has_diffraction=bool(capture.has_diffraction.any()),
        created_unix_s=0.0,
        stall_s=0.0,
        arrays=capture.arrays,
    )
    return snapshot, device


def _trainer(config: InferenceConfig, recipe: Recipe, callback: Callback) -> Trainer:
    try:
        return Trainer(
            accelerator=config.accelerator,
            devices=1,
            precision=recipe.precision,
            callbacks=[callback],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise ConfigError(f"the network cannot run on this machine as in its training: {error}") from error


@contextmanager
def _capturing(plan: CapturePlan, batches: Sequence[range], device: torch.device) -> Iterator[Capture]:
    arrays, copier = plan.layout.allocate(), Copier(device)
    try:
        copier.prepare(arrays, plan.layout.nbytes)
        yield Capture(plan, arrays, copier, tuple(plan.route(batch) for batch in batches))
    finally:
        copier.close()
