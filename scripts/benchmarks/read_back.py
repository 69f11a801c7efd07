"""Cost of verifying that uploaded artifacts exist, on a server with a latency of 40 ms.

    python scripts/benchmarks/read_back.py [--rounds 5]

The worker's own threads upload the artifacts of four consecutive events to an `mlflow server` on loopback, through a
proxy that delays each request, and to a local store. Uploads with and without verification take turns. For the server
verification has two more threads, as in the worker.
"""

import argparse
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import mlflow
from worker_memory import CROP_PX, FIXED, N_PX, SAMPLES, fill, make_scan

from recon_worker.pictures.artifacts import render
from recon_worker.pictures.history import History
from recon_worker.snapshot.artifact import Artifact
from recon_worker.snapshot.records import Snapshot, SnapshotLayout
from recon_worker.spool.outbox import Outbox
from recon_worker.spool.run_target import RunTarget
from recon_worker.upload.mlflow_sink import MlflowSink
from recon_worker.upload.uploader import Uploader, upload_threads

DELAY_S, START_S, EVENTS = 0.04, 60.0, 4
THREADS = 8
"""Upload threads without verification."""


def pump(source: socket.socket, target: socket.socket, delay_s: float) -> None:
    """Forward data, each piece after the delay, until one side closes."""
    with contextlib.suppress(OSError):
        buffer = bytearray(1 << 20)
        while count := source.recv_into(buffer):
            time.sleep(delay_s)
            target.sendall(buffer[:count])
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def serve_proxy(server_port: int) -> None:
    """Print the port of a delaying proxy on loopback, and serve it until the process ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            client, _ = listener.accept()
            server = socket.create_connection(("127.0.0.1", server_port))
            for words in ((client, server, DELAY_S), (server, client, 0.0)):
                threading.Thread(target=pump, args=words, daemon=True).start()


@contextlib.contextmanager
def delaying_proxy(server_port: int) -> Iterator[int]:
    """Run the proxy in a separate process, so that it does not delay the uploading threads; yields its port."""
    words = [sys.executable, __file__, "--proxy", str(server_port)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout is not None
        yield int(proxy.stdout.readline())
        proxy.terminate()


@contextlib.contextmanager
def mlflow_server(folder: Path) -> Iterator[int]:
    """Run an `mlflow server`; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "store")]
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield port
    finally:
        server.terminate()
        server.wait()


class Unverified(MlflowSink):
    """A sink that does not verify uploads."""

    def missing(self, sent: object) -> set[str]:
        """Report no artifact as missing."""
        return set()


def upload_s(folder: Path, uri: str, experiment: str, kind: type[MlflowSink], pictures: list[Artifact]) -> float:
    """Mean seconds to upload the artifacts of an event, over several consecutive events."""
    target = RunTarget(run_id=mlflow.MlflowClient(uri).create_run(experiment).info.run_id, tracking_uri=uri)
    threads = upload_threads(uri) if kind is MlflowSink else min(upload_threads(uri), THREADS)
    outbox, done = Outbox(folder / target.run_id), threading.Semaphore(0)
    uploader = Uploader(outbox, kind(target), threads, lambda _: done.release())
    for generations in ([1], range(2, 2 + EVENTS)):  # the first one opens the connections
        for generation in generations:
            for picture in pictures:
                in_epoch = picture.path.replace("epoch_01", f"epoch_0{generation}")
                outbox.put(Artifact(in_epoch.replace("step_1.", f"step_{generation}."), picture.data))
        began = time.perf_counter()
        for generation in generations:
            names = [name for name in outbox.artifacts() if f"epoch_0{generation}" in name]
            names += [name for name in outbox.artifacts() if "epoch_" not in name]
            uploader.add(generation, names)
        for _ in generations:
            done.acquire()
        taken_s = (time.perf_counter() - began) / len(generations)
    uploader.stop()
    return taken_s


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the median counts (default: %(default)s)")
    parser.add_argument("--proxy", type=int, metavar="PORT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.proxy:
        serve_proxy(arguments.proxy)
    rounds = arguments.rounds
    scan = make_scan()
    arrays = SnapshotLayout(n_fixed=FIXED, patch_px=N_PX, n_stitch=SAMPLES, channels=1, crop_px=CROP_PX).allocate()
    fill(arrays, 1)
    snapshot = Snapshot(epoch=1, step=1, arrays=arrays, has_diffraction=True, created_unix_s=time.time(), stall_s=0.0)
    pictures = [made for made in render(scan, snapshot, History()) if isinstance(made, Artifact)]
    with tempfile.TemporaryDirectory(prefix="recon-log-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        proxy = stack.enter_context(delaying_proxy(stack.enter_context(mlflow_server(folder))))
        places = {"local store": f"sqlite:///{folder}/mlflow.db", "server, 40 ms": f"http://127.0.0.1:{proxy}"}
        print(f"{len(pictures)} artifacts\n| store | unverified, s | verified, s | cost |\n|---|---|---|---|")
        for place, uri in places.items():
            location = (folder / "artifacts").as_uri() if uri.startswith("sqlite") else None
            experiment = mlflow.MlflowClient(uri).create_experiment("read back", artifact_location=location)
            seconds: dict[type[MlflowSink], list[float]] = {Unverified: [], MlflowSink: []}
            for _ in range(rounds):
                for kind, taken in seconds.items():
                    taken.append(upload_s(folder, uri, experiment, kind, pictures))
            unverified, verified = (statistics.median(seconds[kind]) for kind in (Unverified, MlflowSink))
            print(f"| {place} | {unverified:.3f} | {verified:.3f} | {verified / unverified - 1:+.1%} |", flush=True)


if __name__ == "__main__":
    main()
