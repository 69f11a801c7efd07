"""Datamodule of a training run: a training file and an optional test file, each read once."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from ptycho_torch.config import ModelType, ScanKind
from ptycho_torch.data.builders import Split, grid_dataset, raw_dataset
from ptycho_torch.data.dataset import Item, PtychoDataset
from ptycho_torch.data.neighbours import NeighbourSampler
from ptycho_torch.data.normalisation import Normalisation, normalisation
from ptycho_torch.files.npz import DataError, GridLines, RawScan, load_probe, load_scan
from recon_worker.snapshot.array_types import Complex64

_DEFAULT_NPHOTONS = 1e9


class PtychoDataModule(LightningDataModule):
    """Datasets and loaders. The training order depends only on `seed`, not on the global random state."""

    def __init__(
        self,
        *,
        train_data_file: Path,
        test_data_file: Path | None,
        kind: ScanKind,
        n_px: int,
        gridsize: int,
        batch_size: int,
        num_workers: int = 0,
        nphotons: float | None = None,
        probe_file: Path | None = None,
        allow_pickled_metadata: bool = False,
        model_type: ModelType = "pinn",
        merge_neighbours: int = 1,
        seed: int = 0,
    ) -> None:
        """Store the settings; `setup` reads the files.

        Args:
            train_data_file: NPZ to train on.
            test_data_file: NPZ to validate on; None: no validation.
            kind: Format of the files.
            n_px: Side of a pattern, pixels, as in the files.
            gridsize: 1 for single patterns, 2 for groups of four.
            batch_size: Samples per batch.
            num_workers: Data loading processes; 0: none.
            nphotons: Mean photons per pattern. None: from the metadata, else from the counts of a raw scan, else 1e9.
            probe_file: NPZ whose `probeGuess` replaces that of the training file.
            allow_pickled_metadata: Read metadata that older files store as a pickled string.
            model_type: A pinn requires a probe, a supervised model true patches.
            merge_neighbours: Size of the groups of neighbouring training samples; 1: individually shuffled samples.
            seed: Seed of the training order.
        """
        super().__init__()
        self._train_data_file, self._test_data_file = Path(train_data_file), test_data_file
        self._kind, self._n_px, self._gridsize = kind, n_px, gridsize
        self._batch_size, self._num_workers, self._seed = batch_size, num_workers, seed
        self._nphotons, self._probe_file = nphotons, probe_file
        self._allow_pickled_metadata, self._model_type = allow_pickled_metadata, model_type
        self._merge_neighbours = merge_neighbours
        self._datasets: dict[Split, PtychoDataset] = {}
        self._state: dict[str, Any] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read the files; repeated calls have no effect.

        Raises:
            DataError: A file is invalid, or does not match the settings.
        """
        if self._datasets:
            return
        train = self._load(self._train_data_file)
        constants = self._constants(train)
        datasets: dict[Split, PtychoDataset] = {"train": self._dataset(train, "train", constants)}
        if self._test_data_file is not None:
            path = Path(self._test_data_file)
            datasets["test"] = self._dataset(self._load(path), "test", constants)
        self._datasets, self._state = datasets, constants.to_state()

    def state_dict(self) -> dict[str, Any]:
        """Return the training set's constants for checkpoints; applying the network to other scans requires them."""
        return self._state

    @property
    def train_dataset(self) -> PtychoDataset:
        """Training scan, available after `setup`."""
        return self._datasets["train"]

    @property
    def test_dataset(self) -> PtychoDataset | None:
        """Validation scan, available after `setup`; None without a test file."""
        return self._datasets.get("test")

    def train_dataloader(self) -> DataLoader[Item]:
        """Return a loader of the training samples, shuffled by `seed` individually or in groups of neighbours."""
        if self._merge_neighbours == 1:
            return self._loader(self.train_dataset, shuffle=True)
        generator = torch.Generator().manual_seed(self._seed)
        order = NeighbourSampler(self.train_dataset.sample_positions_px, self._merge_neighbours, generator)
        return self._loader(self.train_dataset, sampler=order)

    def val_dataloader(self) -> DataLoader[Item] | list[DataLoader[Item]]:
        """Return a loader of the test samples in dataset order; an empty list without a test file."""
        return [] if self.test_dataset is None else self._loader(self.test_dataset)

    def _loader(
        self, dataset: PtychoDataset, *, shuffle: bool = False, sampler: NeighbourSampler | None = None
    ) -> DataLoader[Item]:
        return DataLoader(
            dataset,
            batch_size=self._batch_size,
            shuffle=shuffle,
            sampler=sampler,
            num_workers=self._num_workers,
            persistent_workers=self._num_workers > 0,
            generator=torch.Generator().manual_seed(self._seed),  # independent of the global generator
        )

    def _load(self, path: Path) -> RawScan | GridLines:
        scan = load_scan(path, self._kind, allow_pickled_metadata=self._allow_pickled_metadata)
        found = scan.diffraction.shape[-1]
        if found != self._n_px:
            raise DataError(f"{path.name}: patterns are {found} x {found} px, but N is {self._n_px}. Use --N {found}.")
        if isinstance(scan, GridLines) and scan.diffraction.shape[1] != self._gridsize**2:
            channels = scan.diffraction.shape[1]
            raise DataError(
                f"{path.name}: samples have {channels} channels, but gridsize is {self._gridsize}. "
                f"Use --gridsize {int(np.sqrt(channels))}."
            )
        return scan

    def _constants(self, train: RawScan | GridLines) -> Normalisation:
        nphotons = self._nphotons or train.metadata.nphotons
        if nphotons is None and isinstance(train, GridLines):
            nphotons = _DEFAULT_NPHOTONS
        return normalisation(train.diffraction.reshape(-1, self._n_px, self._n_px), self._probe(train), nphotons)

    def _probe(self, train: RawScan | GridLines) -> Complex64:
        """Return the probe of the probe file or the training file; ones for a supervised model without one."""
        probe = train.probe if self._probe_file is None else load_probe(Path(self._probe_file))
        if probe is None and self._model_type == "supervised":
            return np.ones((1, self._n_px, self._n_px), np.complex64)
        if probe is None:
            raise DataError(
                f"{self._train_data_file.name}: key 'probeGuess' is missing, and a pinn needs the probe. "
                "Give an NPZ file that has it: --probe_file."
            )
        if probe.shape[-1] != self._n_px:
            raise DataError(
                f"the probe is {probe.shape[-1]} x {probe.shape[-1]} px, but N is {self._n_px}; they must agree. "
                "Give another --probe_file."
            )
        return probe

    def _dataset(self, scan: RawScan | GridLines, split: Split, constants: Normalisation) -> PtychoDataset:
        path = self._train_data_file if split == "train" else self._test_data_file
        source = Path(path or "").name
        if isinstance(scan, RawScan):
            dataset = raw_dataset(scan, gridsize=self._gridsize, constants=constants, source=source)
        else:
            dataset = grid_dataset(scan, split=split, model_type=self._model_type, constants=constants, source=source)
        if self._model_type == "supervised":
            _require_labels(dataset, source)
        return dataset


def _require_labels(dataset: PtychoDataset, source: str) -> None:
    missing, total = dataset.count_unlabelled(), dataset.n_patterns
    if missing:
        raise DataError(
            f"{source}: {missing} of {total} patterns have no true object patch; a supervised model needs all. Give a "
            "file with objectGuess or Y (raw), or with YY_full or Y_I, Y_phi and probeGuess (grid lines), remove those "
            "patterns, or use --model_type pinn."
        )
