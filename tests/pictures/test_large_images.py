"""Images computed in blocks of rows have the same metrics and pixels as whole images."""

import tracemalloc

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from recon_worker.pictures.complex_png import complex_colours
from recon_worker.pictures.layout import downsampled
from recon_worker.pictures.png import Panel
from recon_worker.reconstruction.alignment import Alignment, fit
from recon_worker.reconstruction.comparison import compare
from recon_worker.reconstruction.fourier import ring_correlation
from recon_worker.reconstruction.metrics import correlation, psnr_db, ssim
from recon_worker.reconstruction.slices import row_blocks
from recon_worker.reconstruction.stitching import stitch
from recon_worker.snapshot.array_types import ObjectPatches
from recon_worker.snapshot.geometry import GridGeometry, PositionGeometry

SHAPE = (1201, 1103)
"""Several blocks, with odd side lengths."""


@pytest.fixture(scope="module")
def truth():
    rng = np.random.default_rng(0)
    return (rng.uniform(0.5, 1, SHAPE) * np.exp(1j * rng.uniform(-1, 1, SHAPE))).astype(np.complex64)


@pytest.fixture(scope="module")
def pred(truth):
    rng = np.random.default_rng(1)
    return (truth + rng.normal(0, 0.1, SHAPE) + 1j * rng.normal(0, 0.1, SHAPE)).astype(np.complex64)


@pytest.fixture(scope="module")
def valid():
    valid = np.random.default_rng(2).random(SHAPE) > 1e-3
    valid[100:900, 200:900] = True
    return valid


@pytest.mark.parametrize(("shape", "multiple"), [(SHAPE, 1), (SHAPE, 7), ((3, 5), 1), ((5, 1 << 22), 2)])
def test_blocks_are_all_rows_once_and_begin_where_they_should(shape, multiple):
    blocks = list(row_blocks(shape, multiple))

    assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(shape[0]))
    assert all(block.start % multiple == 0 for block in blocks)


def test_ssim_is_that_of_the_whole_image(pred, truth, valid):
    a, b = np.abs(pred), np.abs(truth)
    low, high = np.percentile(b[valid].astype(float), [0.5, 99.5])
    limits = low - 0.1 * (high - low), high + 0.1 * (high - low)
    _, similarity = structural_similarity(
        *(np.where(valid, np.clip(one, *limits), 0).astype(float) for one in (a, b)), data_range=high - low,
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True,
    )  # fmt: skip
    inside = np.lib.stride_tricks.sliding_window_view(valid, (11, 11)).all(axis=(2, 3))

    assert ssim(a, b, valid) == pytest.approx(similarity[5:-5, 5:-5][inside].mean(), rel=1e-7)


def test_psnr_is_that_of_the_whole_image(pred, truth, valid):
    a, b = np.abs(pred).astype(float)[valid], np.abs(truth).astype(float)[valid]
    low, high = np.percentile(b, [0.5, 99.5])
    a, b = (np.clip(one, low - 0.1 * (high - low), high + 0.1 * (high - low)) for one in (a, b))
    expected = 10 * np.log10((high - low) ** 2 / np.mean((a - b) ** 2))

    assert psnr_db(np.abs(pred), np.abs(truth), valid) == pytest.approx(expected, rel=1e-6)


def test_correlation_is_that_of_the_whole_image(pred, truth, valid):
    expected = np.corrcoef(np.abs(pred)[valid], np.abs(truth)[valid])[0, 1]

    assert correlation(np.abs(pred), np.abs(truth), valid) == pytest.approx(expected, rel=1e-6)


def test_ring_correlation_is_that_of_the_whole_transform(pred, truth):
    n = min(SHAPE)
    window = np.hanning(n + 2)[1:-1]
    square = (slice(0, n), slice(0, n))
    found = ring_correlation(pred, truth, np.pad(np.ones((n, n), bool), [(0, SHAPE[0] - n), (0, 0)]))
    fa, fb = (np.fft.fft2((i[square] - i[square].mean()) * np.outer(window, window)) for i in (pred, truth))
    f = np.fft.fftfreq(n, 1 / n)
    ring = np.rint(np.hypot(f[:, None], f)) == 100
    expected = (fa * fb.conj())[ring].sum().real / np.sqrt((abs(fa[ring]) ** 2).sum() * (abs(fb[ring]) ** 2).sum())

    assert found.correlation[99] == pytest.approx(expected, rel=1e-6)


def test_a_known_alignment_is_found_and_taken_out(truth):
    off = Alignment(scale=0.8, phase_rad=0.5, ramp_rad_per_px=(0.011, -0.007))
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] - (np.array(SHAPE)[:, None, None] - 1) / 2
    expected = truth * 0.8 * np.exp(1j * (0.5 + 0.011 * x - 0.007 * y))
    moved = off.apply(truth)
    back = fit(moved, truth, np.ones(SHAPE, bool), ramp=True)
    result = compare(moved, truth, None, ramp=True)

    np.testing.assert_allclose(moved, expected, rtol=1e-5)
    np.testing.assert_allclose((back.scale, back.phase_rad, *back.ramp_rad_per_px), (1.25, -0.5, -0.011, 0.007), 1e-5)
    assert result.amp_error.max() < 1e-5
    assert result.phase_error_rad.max() < 1e-4


@pytest.mark.parametrize("period", [None, 2 * np.pi])
def test_squares_are_averaged_across_blocks(truth, period):
    values = np.angle(truth)
    panel = Panel(values=values, value_range=(-3, 3), colormap="gray", quantity="", unit="rad", period=period)
    whole = (values[: 1201 // 3 * 3, : 1103 // 3 * 3].reshape(400, 3, 367, 3)).astype(float)
    mean = whole.mean(axis=(1, 3)) if period is None else np.angle(np.exp(1j * whole).sum(axis=(1, 3)))
    small = downsampled(panel, 3).values

    assert small.shape == (401, 368)
    np.testing.assert_allclose(small[:400, :367], mean, atol=1e-6)


def test_complex_colours_are_those_of_each_element(truth):
    colours = complex_colours(truth, (0, 1))

    for row in (0, 948, 951, 1200):  # at the edges of the blocks, too
        np.testing.assert_array_equal(colours[row], complex_colours(truth[row : row + 1], (0, 1))[0])


# --- patches that are computed on demand ------------------------------------------------------------------------------


def test_tiles_of_a_large_grid_lie_where_they_were_cut(truth):
    tile, side = 16, 60
    image = truth[: tile * side, : tile * side]
    tiles = image.reshape(side, tile, side, tile).swapaxes(1, 2).reshape(-1, 1, tile, tile)
    geometry = GridGeometry(patch_px=32, outer_offset_px=2 * tile, n_objects=1, n_samples=side**2)
    (stitched,) = stitch(geometry, ObjectPatches(np.abs(tiles), np.angle(tiles)))

    np.testing.assert_allclose(stitched.object, image, rtol=1e-5)
    assert (stitched.coverage == 1).all()


def test_stitching_makes_no_copy_of_all_patches():
    rng = np.random.default_rng(0)
    amp, phase = rng.random((2, 2000, 1, 32, 32), np.float32)
    geometry = PositionGeometry(patch_px=64, crop_px=32, positions_px=rng.uniform(32, 400, (2000, 1, 2)))
    tracemalloc.start()
    (image,) = stitch(geometry, ObjectPatches(amp, phase))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 2 * (image.object.nbytes + image.coverage.nbytes) + 2**22
    assert peak < amp.size * 8 / 2  # half of the patches, complex
