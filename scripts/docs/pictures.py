"""Draw the pictures of docs/reference/pictures.md from a known object.

python scripts/docs/pictures.py            writes docs/pictures/*.png
"""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ptycho_torch.simulation.specimens import default_pictures, disc_probe, make_object
from recon_worker.pictures.colour_ranges import ColourRanges, log_intensity, object_ranges
from recon_worker.pictures.complex_png import encode_complex_png
from recon_worker.pictures.figures import PHASE_PERIOD, misfit_panel, phase_panel
from recon_worker.pictures.layout import GREY, Page, draw_panel
from recon_worker.pictures.png import Panel
from recon_worker.reconstruction.alignment import fit
from recon_worker.reconstruction.comparison import compare
from recon_worker.reconstruction.diffraction_metrics import mean_pattern, r_factor
from recon_worker.reconstruction.metrics import phase_error_rad
from recon_worker.reconstruction.misfit import SampleMisfit
from recon_worker.snapshot.array_types import Bool, Complex64, Float32

_SIDE_PX, _MARGIN_PX, _GAP_PX, _HEAD_PX = 256, 16, 24, 34
_PIXELS = 256
_PATCH_PX = 64


def main(argv: Sequence[str] | None = None) -> int:
    """Write every picture; exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parents[2] / "docs" / "pictures")
    folder: Path = parser.parse_args(argv).output
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in _PICTURES.items():
        (folder / f"{name}.png").write_bytes(make())
        print(folder / f"{name}.png")
    return 0


def _object() -> Complex64:
    return make_object(*default_pictures(), _PIXELS)


def _prediction() -> Complex64:
    """Imitate the prediction of a network: another amplitude scale, global phase and phase ramp, and a real error."""
    rows, columns = np.mgrid[:_PIXELS, :_PIXELS]
    mistake = np.where(np.hypot(rows - 150, columns - 90) < 30, np.exp(0.5j), 1)
    ramp = np.exp(1j * (0.9 + 0.02 * columns - 0.01 * rows))
    predicted: Complex64 = (0.7 * ramp * mistake * _object()).astype(np.complex64)
    return predicted


def _panel(
    values: Float32, value_range: tuple[float, float], colormap: str, unit: str = "1", scanned: Bool | None = None
) -> Panel:
    period = PHASE_PERIOD if colormap == "twilight" else None
    array = np.asarray(values, np.float32)
    return Panel(
        values=array, value_range=value_range, colormap=colormap, quantity="", unit=unit, scanned=scanned, period=period
    )


def _phase_panel(object_: Complex64) -> Panel:
    return _panel(np.angle(object_), (-math.pi, math.pi), "twilight", "rad")


def _row(panels: Mapping[str, Panel]) -> bytes:
    """Draw panels side by side, each with its title and colour bar."""
    page, x, bottom = Page(), _MARGIN_PX, 0
    for title, panel in panels.items():
        page.write(x, _HEAD_PX - 10, title, bold=True)
        width, height = draw_panel(page, panel, x, _HEAD_PX, _SIDE_PX, 3)
        x, bottom = x + width + _GAP_PX, max(bottom, _HEAD_PX + height)
    return page.png(x - _GAP_PX + _MARGIN_PX, bottom + _MARGIN_PX // 2)


def _amplitude() -> bytes:
    amplitude = np.abs(_object())
    return _row(
        {
            "Amplitude, whole range": _panel(amplitude, (0.0, 1.05), "gray"),
            "The range of a run's pictures": _panel(amplitude, (0.78, 1.02), "gray"),
        }
    )


def _phase() -> bytes:
    """Show the known cells, and a vortex, whose phase is the angle from the x axis, counter-clockwise."""
    axis = np.arange(_PIXELS) - (_PIXELS - 1) / 2
    vortex = (axis[None, :] - 1j * axis[:, None]).astype(np.complex64)
    return _row({"Phase of the object": _phase_panel(_object()), "Phase of x \u2212 iy": _phase_panel(vortex)})


def _aligned() -> bytes:
    """Show phases aligned with the truth, as in the summary."""
    truth, predicted, everywhere = _object(), _prediction(), np.ones((_PIXELS, _PIXELS), bool)
    result = compare(predicted, truth, everywhere, ramp=True)
    ranges = object_ranges("object", [truth], lambda: [np.abs(predicted).ravel()], ColourRanges(), trained=True)
    phases = ranges["phase_aligned"]
    return _row(
        {
            "Phase, predicted": _phase_panel(predicted),
            "Phase, predicted, aligned": phase_panel(result.aligned, everywhere, phases),
            "Phase, truth": phase_panel(truth, everywhere, phases),
        }
    )


def _errors() -> bytes:
    truth, predicted = _object(), _prediction()
    aligned = fit(predicted, truth, np.ones(truth.shape, bool), ramp=True).apply(predicted)

    def error(one: Complex64) -> Panel:
        values = np.abs(phase_error_rad(np.angle(one), np.angle(truth)))
        return _panel(values, (0.0, math.pi / 4), "inferno", "rad")

    return _row(
        {
            "Phase, predicted": _phase_panel(predicted),
            "Error, not aligned": error(predicted),
            "Error, aligned": error(aligned),
        }
    )


def _diffraction() -> bytes:
    patch = _object()[100 : 100 + _PATCH_PX, 60 : 60 + _PATCH_PX]
    probe = disc_probe(_PATCH_PX, _PATCH_PX / 4)[0]
    wave = np.fft.fftshift(np.fft.fft2(probe * patch, norm="ortho"))
    intensity = np.abs(wave) ** 2 * (1e6 / np.sum(np.abs(wave) ** 2))
    counts = np.random.default_rng(0).poisson(intensity)
    logarithm = log_intensity(np.sqrt(counts).astype(np.float32))
    top = float(logarithm.max())
    return _row(
        {
            "Counts": _panel(counts, (0.0, float(counts.max())), "magma"),
            "log(1 + counts)": _panel(logarithm, (0.0, top), "magma"),
        }
    )


def _misfit() -> bytes:
    """Show the misfit of a scan: a disc of the prediction has a wrong phase, and ten patterns are corrupted."""
    rows, columns = np.mgrid[:_PIXELS, :_PIXELS]
    wrong = np.where(np.hypot(rows - 150, columns - 90) < 30, np.exp(0.5j), 1)
    predicted = (wrong * _object()).astype(np.complex64)
    half, probe = _PATCH_PX // 2, disc_probe(_PATCH_PX, _PATCH_PX / 4)[0]
    y, x = np.mgrid[half : _PIXELS - half + 1 : 8, half : _PIXELS - half + 1 : 8].reshape(2, -1)

    def patterns(one: Complex64) -> Float32:
        patches = np.stack([one[b - half : b + half, a - half : a + half] for b, a in zip(y, x, strict=True)])
        return np.abs(np.fft.fftshift(np.fft.fft2(probe * patches), (1, 2))).astype(np.float32)

    observed, rng = patterns(_object()), np.random.default_rng(2)
    corrupted = rng.choice(len(x), 10, replace=False)
    observed[corrupted] = np.roll(observed[corrupted], 3, axis=-1)
    r_factors = np.array([r_factor(*pair) for pair in zip(patterns(predicted), observed, strict=True)], np.float32)
    positions = np.stack([x, y], axis=1).astype(float)
    misfit = SampleMisfit(
        samples=np.arange(len(x)), positions_px=positions, r_factor=r_factors, deviance_per_photon=r_factors
    )
    mean = mean_pattern(observed)
    assert mean is not None
    scanned = np.zeros((_PIXELS, _PIXELS), bool)
    scanned[half // 2 : -half // 2, half // 2 : -half // 2] = True
    panel = misfit_panel(misfit, scanned, (0.0, max(r_factor(mean, one) for one in observed[::200]) / 2))
    return _row({"Phase of the prediction": _phase_panel(predicted), "Misfit of the diffraction, R-factor": panel})


def _special() -> bytes:
    amplitude = np.abs(_object())
    rows, columns = np.mgrid[:_PIXELS, :_PIXELS] - (_PIXELS - 1) / 2
    values = amplitude.copy()
    for number, value in enumerate((np.nan, np.inf, -np.inf)):
        values[40 + 50 * number : 70 + 50 * number, 190:220] = value
    seen = np.hypot(rows, columns) < 0.6 * _PIXELS
    panel = _panel(values, (0.78, 1.02), "gray", scanned=seen)
    page = Page()
    width, height = draw_panel(page, panel, _MARGIN_PX, _MARGIN_PX, _SIDE_PX, 3)
    texts = {55: "not a number", 105: "+infinity", 155: "\u2212infinity", 10: "not scanned, or nothing to compare"}
    for y, text in texts.items():
        page.write(_MARGIN_PX + width + 12, _MARGIN_PX + y + 4, text, colour=GREY)
    return page.png(2 * _MARGIN_PX + width + 250, height + _MARGIN_PX + _MARGIN_PX // 2)


def _complex() -> bytes:
    scanned = ~np.isnan(_object())
    scanned[:40, :40] = False
    return encode_complex_png(_object(), amplitude_range=(0.0, 1.0), scanned=scanned)


_PICTURES: Mapping[str, Callable[[], bytes]] = {
    "amplitude": _amplitude,
    "phase": _phase,
    "aligned": _aligned,
    "errors": _errors,
    "diffraction": _diffraction,
    "misfit": _misfit,
    "special": _special,
    "complex": _complex,
}


if __name__ == "__main__":
    raise SystemExit(main())
