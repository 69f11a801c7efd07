"""Cost of the tiles of one noisy 4096 x 4096 px picture, by side of the tiles: processor time, files, bytes, upload.

    python scripts/benchmarks/tiles.py [--side 4096] [--server http://127.0.0.1:5000]

Uploads to a new SQLite store, or to a server, with the worker's uploader, which lists each folder.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter  # type: ignore[attr-defined]

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import mlflow

from recon_worker.pictures.figures import levels_of
from recon_worker.pictures.png import Panel, encode_png
from recon_worker.pictures.tiles import pyramid
from recon_worker.snapshot.artifact import Artifact
from recon_worker.spool.outbox import Outbox
from recon_worker.spool.run_target import RunTarget
from recon_worker.upload.mlflow_sink import MlflowSink
from recon_worker.upload.uploader import Uploader, upload_threads

TILE_SIDES_PX = 512, 1024, 2048


def noisy_panel(side_px: int) -> Panel:
    """An amplitude with details of a few pixels, which compresses as badly as that of a measured object."""
    noise = gaussian_filter(np.random.default_rng(0).normal(size=(side_px, side_px)).astype(np.float32), 1.5)
    values = (0.8 + 0.1 * noise / noise.std()).astype(np.float32)
    scanned = np.ones(values.shape, bool)
    return Panel(values=values, value_range=(0.4, 1.2), colormap="gray", quantity="", unit="1", scanned=scanned)


def upload_s(uri: str, folder: Path, artifacts: list[Artifact]) -> tuple[float, float]:
    """Upload the artifacts to a new run; return wall and processor seconds of this process."""
    client = mlflow.MlflowClient(uri)
    location = None if uri.startswith("http") else (folder / "artifacts").as_uri()
    experiment = client.create_experiment(f"tiles {time.time_ns()}", artifact_location=location)
    target = RunTarget(run_id=client.create_run(experiment).info.run_id, tracking_uri=uri)
    outbox, done = Outbox(folder / target.run_id), list[int]()
    for one in artifacts:
        outbox.put(one)
    sink = MlflowSink(target)
    sink.missing({})  # connects
    began, began_cpu = time.perf_counter(), time.process_time()
    uploader = Uploader(outbox, sink, upload_threads(uri), on_complete=done.append)
    uploader.add(1, [one.path for one in artifacts])
    while not done:
        time.sleep(0.005)
    uploader.stop()
    return time.perf_counter() - began, time.process_time() - began_cpu


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=4096, help="side of the picture, pixels")
    parser.add_argument("--server", help="tracking URI of a server, instead of a new SQLite store")
    arguments = parser.parse_args()
    panel = noisy_panel(arguments.side)
    began = time.process_time()
    whole = Artifact("epoch_01/stitched/amp_pred.png", encode_png(panel))
    png_s = time.process_time() - began
    began = time.process_time()
    levels = levels_of(panel, pyramid.SMALLEST_PX)
    print(f"levels: {time.process_time() - began:.2f} CPU s")
    print("tiles px  files    MB  encode CPU s  upload s  upload CPU s")
    with tempfile.TemporaryDirectory() as folder:
        uri = arguments.server or f"sqlite:///{folder}/mlflow.db"
        rows: list[tuple[str, list[Artifact], float]] = [("none", [whole], png_s)]
        for side in TILE_SIDES_PX:
            pyramid.TILE_PX = side
            began = time.process_time()
            root = "epoch_01/stitched/amp_pred_files"
            made = [Artifact(f"{root}/{name}", encode_png(tile)) for name, tile in pyramid.tiles(levels)]
            rows.append((str(side), made, time.process_time() - began))
        for name, made, encode_s in rows:
            size = sum(len(one.data) for one in made) / 1e6
            wall_s, cpu_s = upload_s(uri, Path(folder), made)
            print(f"{name:8} {len(made):6} {size:5.1f} {encode_s:13.2f} {wall_s:9.2f} {cpu_s:13.2f}")


if __name__ == "__main__":
    main()
