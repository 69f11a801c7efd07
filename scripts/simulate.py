"""Make data files from pictures: a raw scan, or the two files of a grid-lines study.

    python scripts/simulate.py raw --output scan.npz
    python scripts/simulate.py grid-lines --output study

The flags determine the output completely. Nothing is downloaded: the default pictures come with scikit-image.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from recon_worker.snapshot.array_types import Complex64, Float64

_BAD_INPUT = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, simulate, write; exit code 0, or 2 with a message if a flag or a file is invalid."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.simulate(arguments)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return _BAD_INPUT
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Simulate ptychography data files.", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="{raw,grid-lines}")
    raw = _command(commands, "raw", "one scan with free positions", _raw)
    scan = raw.add_argument_group("Scan")
    scan.add_argument("--pattern", choices=("raster", "spiral", "random"), default="spiral", help="default: spiral")
    scan.add_argument("--step", type=float, metavar="PX", help="distance between neighbours, pixels (default: N/8)")
    raw.add_argument_group("Output").add_argument("--output", type=Path, required=True, help="NPZ file to write")

    grid = _command(commands, "grid-lines", "a training and a test file on square grids", _grid_lines)
    scan = grid.add_argument_group("Scan")
    scan.add_argument("--gridsize", type=int, choices=(1, 2), default=1, help="patterns per sample along one side")
    scan.add_argument("--offset", type=int, default=4, metavar="PX", help="distance within a sample (default: 4)")
    scan.add_argument("--outer_offset_train", type=int, default=8, metavar="PX", help="twice the stride (default: 8)")
    scan.add_argument("--outer_offset_test", type=int, default=20, metavar="PX", help="twice the stride (default: 20)")
    scan.add_argument("--nimgs_train", type=_at_least_one, default=2, help="training objects (default: 2)")
    scan.add_argument("--nimgs_test", type=_at_least_one, default=2, help="test objects (default: 2)")
    grid.add_argument_group("Output").add_argument(
        "--output", type=Path, required=True, help="directory; files are written to its datasets/N<N>/gs<gridsize>/"
    )
    return parser


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str, simulate: object
) -> argparse.ArgumentParser:
    """Add a subcommand with the flags that both share."""
    parser = commands.add_parser(name, help=text, description=f"Simulate {text}.", allow_abbrev=False)
    parser.set_defaults(simulate=simulate)
    detector = parser.add_argument_group("Detector")
    detector.add_argument("--N", type=_side, default=64, help="side of a diffraction pattern, pixels (default: 64)")
    detector.add_argument("--nphotons", type=float, default=1e9, help="mean photons per pattern (default: 1e9)")
    detector.add_argument("--seed", type=_seed, default=0, help="seed of all random numbers (default: 0)")
    probe = parser.add_argument_group("Probe")
    probe.add_argument(
        "--probe",
        choices=("disc", "diffuser"),
        help="a defocused disc, or a disc with a smooth random phase (default: disc)",
    )
    probe.add_argument("--probe_file", type=Path, metavar="NPZ", help="use the probeGuess of this file instead")
    probe.add_argument("--probe_radius", type=float, metavar="PX", help="radius of the disc (default: N/4)")
    probe.add_argument("--probe_edge", type=float, default=1.5, metavar="PX", help="width of the rim (default: 1.5)")
    probe.add_argument(
        "--probe_curvature", type=float, default=14.0, metavar="RAD", help="disc: phase at the rim (default: 14)"
    )
    probe.add_argument("--probe_rms", type=float, default=1.5, metavar="RAD", help="diffuser: RMS phase (default: 1.5)")
    probe.add_argument(
        "--probe_smoothing",
        type=float,
        default=3.0,
        metavar="PX",
        help="diffuser: standard deviation of the Gaussian that smooths the phase (default: 3)",
    )
    what = parser.add_argument_group("Object")
    what.add_argument("--amplitude_image", type=Path, metavar="IMAGE", help="default: scikit-image's camera")
    what.add_argument("--phase_image", type=Path, metavar="IMAGE", help="default: scikit-image's cell")
    what.add_argument(
        "--amplitude_range",
        type=float,
        nargs=2,
        default=(0.8, 1.0),
        metavar=("LOW", "HIGH"),
        help="range of the object's amplitude (default: 0.8 1)",
    )
    size = 256 if name == "raw" else 392
    what.add_argument(
        "--object_size", type=_at_least_one, default=size, metavar="PX", help=f"side of an object (default: {size})"
    )
    return parser


def _raw(arguments: argparse.Namespace) -> None:
    import numpy as np

    from ptycho_torch.simulation.raw_scan import simulate_raw_scan
    from ptycho_torch.simulation.scan_patterns import scan_positions
    from ptycho_torch.simulation.specimens import make_object

    probe = _probe(arguments)
    object_ = make_object(*_pictures(arguments), arguments.object_size, tuple(arguments.amplitude_range))
    step_px = arguments.N / 8 if arguments.step is None else arguments.step
    rng = np.random.default_rng(arguments.seed)
    positions = scan_positions(arguments.pattern, object_.shape, arguments.N, step_px, rng)
    arrays = simulate_raw_scan(object_, probe, positions, nphotons=arguments.nphotons, seed=arguments.seed)
    _save(arguments.output, arrays, f"{len(positions)} patterns of {arguments.N} x {arguments.N} px")


def _grid_lines(arguments: argparse.Namespace) -> None:
    import numpy as np

    from ptycho_torch.simulation.grid_lines import GridPlan, simulate_grid_lines
    from ptycho_torch.simulation.specimens import varied_object

    plan = GridPlan(
        gridsize=arguments.gridsize,
        offset=arguments.offset,
        outer_offset_train=arguments.outer_offset_train,
        outer_offset_test=arguments.outer_offset_test,
    )
    probe = _probe(arguments)
    if len(probe) > 1:
        raise ValueError(f"the probe has {len(probe)} modes; grid-lines files hold one. Give a probe of one mode.")
    pictures, rng = _pictures(arguments), np.random.default_rng(arguments.seed)
    count = arguments.nimgs_train + arguments.nimgs_test
    limits = tuple(arguments.amplitude_range)
    objects = np.stack([varied_object(*pictures, arguments.object_size, rng, limits) for _ in range(count)])
    train, test = simulate_grid_lines(
        objects[: arguments.nimgs_train],
        objects[arguments.nimgs_train :],
        probe[0],
        plan=plan,
        nphotons=arguments.nphotons,
        seed=arguments.seed,
    )
    directory = arguments.output / "datasets" / f"N{arguments.N}" / f"gs{arguments.gridsize}"
    for name, arrays in (("train", train), ("test", test)):
        samples, side, _, channels = arrays["diffraction"].shape
        _save(directory / f"{name}.npz", arrays, f"{samples} samples of {channels} patterns, {side} x {side} px")


def _probe(arguments: argparse.Namespace) -> "Complex64":
    """(P, N, N)"""
    if arguments.probe_file is None:
        return _made_probe(arguments)
    from ptycho_torch.files.npz import load_probe

    if arguments.probe is not None:
        raise ValueError("--probe and --probe_file are both given; give one of them.")
    probe = load_probe(arguments.probe_file)
    if probe.shape[-1] != arguments.N:
        raise ValueError(
            f"{arguments.probe_file.name}: the probe has a side of {probe.shape[-1]} px; N is {arguments.N}."
        )
    return probe


def _made_probe(arguments: argparse.Namespace) -> "Complex64":
    from ptycho_torch.simulation.specimens import diffuser_probe, disc_probe

    radius_px = arguments.N / 4 if arguments.probe_radius is None else arguments.probe_radius
    if arguments.probe == "diffuser":
        rms_rad, smoothing_px = arguments.probe_rms, arguments.probe_smoothing
        return diffuser_probe(arguments.N, radius_px, arguments.probe_edge, rms_rad, smoothing_px, seed=arguments.seed)
    return disc_probe(arguments.N, radius_px, arguments.probe_edge, arguments.probe_curvature)


def _pictures(arguments: argparse.Namespace) -> "tuple[Float64, Float64]":
    from ptycho_torch.simulation.specimens import default_pictures

    amplitude, phase = default_pictures()
    if arguments.amplitude_image is not None:
        amplitude = _picture(arguments.amplitude_image)
    if arguments.phase_image is not None:
        phase = _picture(arguments.phase_image)
    return amplitude, phase


def _picture(path: Path) -> "Float64":
    """(H, W) float64 grey values."""
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("F"), np.float64)


def _save(path: Path, arrays: "dict[str, NDArray[np.generic]]", contents: str) -> None:
    from ptycho_torch.files.archive import save_npz

    save_npz(path, arrays)
    print(f"wrote {path}: {contents}, {path.stat().st_size / 2**20:.0f} MiB")


def _side(text: str) -> int:
    value = int(text)
    if value < 8 or value % 2:
        raise argparse.ArgumentTypeError(f"is {value}; it must be even and at least 8, usually 64, 128 or 256")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"is {value}; it must be at least 0")
    return value


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"is {value}; it must be at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
