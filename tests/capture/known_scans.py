"""Datasets of other projects, with patches cut from a known object at known positions."""

from types import SimpleNamespace

import numpy as np
import torch
from torch.utils.data import Dataset

from recon_worker.capture.placement.samples import ItemPosition, Samples, place_samples
from recon_worker.capture.plan import ScanOptions
from recon_worker.reconstruction.stitching import crop_start_px, stitch
from tests.reconstruction.known_objects import correlation, cut_patches, smooth_object

N = 32
TRUTH = smooth_object((150, 130))
"""150 rows, 130 columns: swapped axes do not fit."""


class Scan(Dataset):
    """Samples of C patches at random positions of a true object; what it says about them is set by a test."""

    def __init__(self, n=120, channels=1, seed=1, truth=TRUTH):
        rng = np.random.default_rng(seed)
        low, high = N // 2 + 4, np.array(truth.shape[::-1]) - N // 2 - 4
        mean = rng.uniform(low, high, (n, 1, 2))
        around = rng.uniform(-3, 3, (n, channels, 2)) * (channels > 1)
        self.positions = mean + around - around.mean(axis=1, keepdims=True)  # (n, C, 2), (x, y)
        self.patches = cut_patches(truth, self.positions.reshape(-1, 2), N).reshape(n, channels, N, N)

    def __len__(self):
        return len(self.patches)

    def __getitem__(self, i):
        return self.patches[i]

    @property
    def mean_px(self):
        return self.positions.mean(axis=1)

    @property
    def relative(self):
        """(n, 1, 2, C) float32, -(x - mean)."""
        return -(self.positions - self.mean_px[:, None]).swapaxes(1, 2)[:, None].astype(np.float32)

    def item_position(self, i):
        return ItemPosition(position_px=self.positions[i].astype(np.float32))


class Wrapper(Dataset):
    """Changes items, not their order."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, i):
        return self.dataset[i]


def global_offsets(scan, truth=TRUTH):
    """The container of a raw scan: the mean of each group, and the offsets of its members."""
    offsets = scan.mean_px[:, None, :, None]
    scan.container = SimpleNamespace(global_offsets=offsets, coords_relative=scan.relative, YY_full=truth)
    return scan


def dict_of_tensors(scan):
    offsets = torch.from_numpy(scan.mean_px[None, :, None, :, None])
    truth = torch.from_numpy(TRUTH)[None, ..., None]
    relative = torch.from_numpy(scan.relative)
    scan.container = {"global_offsets": offsets, "coords_nominal": relative, "YY_full": None, "objectGuess": truth}
    return scan


def centres_of_patches(scan):
    """The container of a grid-lines file: absolute centres of all patches, (y, x)."""
    offsets = scan.positions[..., ::-1].swapaxes(1, 2)[:, None]
    scan.container = {"coords_offsets": offsets, "coords_true": scan.relative, "objectGuess": TRUTH}
    return scan


def centres_of_groups(scan):
    """The same with the means of the groups."""
    scan.container = {
        "coords_offsets": scan.mean_px[:, ::-1, None].reshape(-1, 1, 2, 1),
        "coords_relative": scan.relative,
        "objectGuess": TRUTH,
    }
    return scan


CONTAINERS = {one.__name__: one for one in (global_offsets, dict_of_tensors, centres_of_patches, centres_of_groups)}


def place(dataset, count=None, **settings):
    """Place the leading samples of a dataset."""
    length = len(dataset)
    told = {name: settings.pop(name) for name in ("positions", "ground_truth", "object_index") if name in settings}
    count = length if count is None else count
    samples = Samples(dataset=dataset, length=length, count=count, n_px=N, **{"weight": "uniform"} | settings)
    return place_samples(samples, ScanOptions(**told))


def stitched_correlations(placement, dataset):
    """Stitch the true patches of a dataset; correlation with the true object, for each object."""
    geometry = placement.geometry
    start = crop_start_px(geometry.patch_px, geometry.crop_px)
    crop = slice(start, start + geometry.crop_px)
    count = len(geometry.positions_px) if hasattr(geometry, "positions_px") else len(dataset)
    patches = np.stack([dataset[i] for i in range(count)])[:, :, crop, crop]
    found = []
    for one, truth in zip(stitch(geometry, patches), placement.ground_truth, strict=True):
        found.append(correlation(one.object, truth, one.scanned & np.isfinite(truth)))
    return found


def assert_true_patches(placement, dataset, indices, atol=0.01):
    """The true patch of each sample is the known one; most patches lie inside the object."""
    for index in indices:
        amplitude, phase = placement.true_patch(int(index))
        known = dataset[int(index)][0]
        assert amplitude.dtype == phase.dtype == np.float32
        np.testing.assert_allclose(amplitude * np.exp(1j * phase), known, atol=atol)
