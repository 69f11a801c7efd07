"""Objects, scans and reference arrays with known stitches."""

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from recon_worker.snapshot.geometry import PositionGeometry
from tests.paths import REFERENCE, read_npz


def load_reference(name):
    return read_npz(REFERENCE / name)


def centre_crop(patches, m):
    """Return centre crops, with index N // 2 at m // 2 (N even)."""
    start = patches.shape[-1] // 2 - m // 2
    return patches[..., start : start + m, start : start + m]


def smooth_object(shape, seed=0):
    rng = np.random.default_rng(seed)
    amp, phase = (gaussian_filter(rng.normal(size=shape), 3, mode="wrap") for _ in range(2))
    return ((0.7 + 1.5 * amp) * np.exp(12j * phase)).astype(np.complex64)


def cut_patches(true_object, positions_px, n_px):
    """Return (n, N, N) patches around (x, y), with the centre pixel at N // 2, by cubic interpolation."""
    y, x = np.mgrid[:n_px, :n_px] - n_px // 2
    coordinates = np.stack([positions_px[:, 1, None, None] + y, positions_px[:, 0, None, None] + x])
    real, imaginary = (map_coordinates(part, coordinates) for part in (true_object.real, true_object.imag))
    return (real + 1j * imaginary).astype(np.complex64)


def correlation(a, b, where):
    a, b = a[where] - a[where].mean(), b[where] - b[where].mean()
    return np.vdot(a, b).real / np.sqrt(np.vdot(a, a).real * np.vdot(b, b).real)


def random_scan(n=120, n_px=32, seed=1, **settings):
    """Return an object of 150 x 130 px and n patches at random sub-pixel positions."""
    positions = np.random.default_rng(seed).uniform(n_px, (130 - n_px, 150 - n_px), (n, 2))
    true_object = smooth_object((150, 130))
    geometry = PositionGeometry(patch_px=n_px, crop_px=n_px // 2, positions_px=positions[:, None], **settings)
    return true_object, geometry, centre_crop(cut_patches(true_object, positions, n_px), n_px // 2)[:, None]
