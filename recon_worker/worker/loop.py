"""The worker process: its start, its message loop, and its end.

    pipe: setup, reserve, job, file, retry, finish, stop -> Worker -> outbox -> upload threads -> MLflow
          <- ready, reserved, began, alive, rendered, finished, logged, refused, aside, log

Started by `client.process` with the pipe, the shared memory and a socket as inherited descriptors. It ignores signals
that terminals and batch systems send to every process of a job, and obeys the pipe. If the pipe closes without `stop`,
the training process is dead. The worker then writes the snapshots in shared memory to the spool, renders and uploads
what it can within the flush timeout, and exits; `Watchdog` ends it if it hangs. All data needed for this is in shared
memory too, because the training process may die before it has sent anything.
"""

import argparse
import contextlib
import functools
import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from recon_worker.snapshot.slots import Slot, read_all
from recon_worker.system.handover import HURRY, take_over
from recon_worker.upload.uploader import MAX_UPLOAD_THREADS
from recon_worker.worker.channel import Channel
from recon_worker.worker.priority import LowPriority
from recon_worker.worker.watchdog import Watchdog
from recon_worker.worker.worker import Worker

_POLL_S = 0.1
_TITLE = Path("/proc/self/comm")
"""File with the process name that `ps` and `top` show."""
_TO_ALL_PROCESSES = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU),  # notice of a limit, such as #SBATCH --signal=USR1@90
)
"""Signals that Slurm and other batch systems send to every process of a job."""
_MATPLOTLIBS_FOLDER = "MPLCONFIGDIR"
"""Variable that Matplotlib sets to a temporary folder if the home directory cannot be written."""
_ORPHAN_ATTEMPTS_AFTER_S = (0.0, 1.0, 2.0, 4.0)
"""Delay before each attempt of an orphaned worker; another follows only if the machine lacked a resource."""


def main() -> int:
    """Run the worker process, with the arguments set by `client.process`."""
    for number in _TO_ALL_PROCESSES:
        signal.signal(number, signal.SIG_IGN)
    parser = argparse.ArgumentParser(description="Started by the training process; not meant to be called by hand.")
    for name in ("parent", "pipe", "handover", "brief"):
        parser.add_argument(name, type=int)
    parser.add_argument("linger_s", type=float)
    parser.add_argument("slots", type=int, nargs="+")
    arguments = parser.parse_args()
    given = os.environ.get(_MATPLOTLIBS_FOLDER)
    watchdog = Watchdog(arguments.parent, arguments.linger_s)
    priority = LowPriority(MAX_UPLOAD_THREADS + 1)
    # block these imports: they cost MLflow 80 MB, the last one 0.1 s, and no upload needs them
    sys.modules.update({"pandas": None, "pyarrow": None, "mako.ext.pygmentplugin": None})  # type: ignore[dict-item]
    with contextlib.suppress(OSError):  # not Linux, or a container forbids it
        _TITLE.write_text("recon-worker")
    channel = Channel(Connection(arguments.pipe), arguments.parent)
    logging.getLogger().addHandler(channel)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # the uploader logs, once, that it retries
    logging.getLogger("recon_worker.spool.lock").setLevel(logging.ERROR)  # the training process has logged it
    priority.run(_warm_up)
    folder = os.environ.get(_MATPLOTLIBS_FOLDER)  # later, a plugin of MLflow may name another one
    channel.send("ready")
    _serve(channel, watchdog, priority, functools.partial(_set_up, arguments, channel, watchdog, priority))
    logging.shutdown()
    sys.stdout.flush()
    if folder is not None and folder != given:
        shutil.rmtree(folder, ignore_errors=True)  # as Matplotlib does at a normal exit
    os._exit(0)  # an upload that hangs, or MLflow's own threads, must not keep the process alive


def _serve(channel: Channel, watchdog: Watchdog, priority: LowPriority, set_up: Callable[[], Worker | None]) -> None:
    """Handle messages until `stop` or, if the training process dies, until all is uploaded or time runs out.

    `set_up` creates the worker of the run; it returns None if no training has begun.
    """
    worker: Worker | None = None
    try:
        while (message := channel.receive())["do"] != "stop":
            worker = worker or set_up()
            assert worker is not None  # the first message is `setup`: the run has been described
            worker.handle(message)
    except EOFError:
        deadline = watchdog.orphaned()
        priority.restore()
        if worker is None and (worker := set_up()) is not None:
            worker.begin({})
        if worker is not None:
            _finish_alone(worker, watchdog, deadline)
    finally:
        if worker is not None:
            worker.uploader.stop()


def _set_up(
    arguments: argparse.Namespace, channel: Channel, watchdog: Watchdog, priority: LowPriority
) -> Worker | None:
    """Create the worker for the run that the training process has described; None if it has described none."""
    if not os.fstat(arguments.brief).st_size:
        return None
    training = socket.socket(fileno=arguments.handover)
    received, spool = take_over(training)
    lock, folder = spool or (None, None)
    slots = [Slot(descriptor) for descriptor in arguments.slots]
    worker = Worker(read_all(arguments.brief), channel, slots, priority, folder)
    if lock is not None:
        os.close(lock)  # only now: it keeps the spool locked until the worker holds a lock of its own
    watchdog.save_snapshots = worker.save_snapshots
    threading.Thread(target=_await_hurry, args=(training, received, priority), name="hurry", daemon=True).start()
    return worker


def _await_hurry(training: socket.socket, received: bytes, priority: LowPriority) -> None:
    """Restore the priority when the training process requests it or dies; `received`: bytes already read."""
    with training:
        while HURRY not in received:
            received, descriptors, *_ = socket.recv_fds(training, 64, 2)
            for descriptor in descriptors:
                os.close(descriptor)
            if not received:
                break
    priority.restore()


def _finish_alone(worker: Worker, watchdog: Watchdog, deadline: float) -> None:
    """Render and upload the snapshots of the dead training process, until the deadline (monotonic)."""
    for wait_s in _ORPHAN_ATTEMPTS_AFTER_S:
        time.sleep(max(0.0, min(wait_s, deadline - time.monotonic())))
        watchdog.save()
        on_disk = worker.outbox.raw_generations()
        contents = [slot.content() for slot in worker.slots]  # some may not have been saved
        in_memory = {generation: number for number, (generation, _) in enumerate(contents) if generation}
        for generation in sorted({*on_disk, *in_memory} - worker.rendered):
            if time.monotonic() > deadline:
                break
            if generation in on_disk:
                worker.render_file(generation, on_disk[generation])
            else:
                worker.render_slot(generation, in_memory[generation])
        for generation in on_disk.keys() & worker.rendered:
            worker.outbox.held(on_disk[generation]).unlink(missing_ok=True)
        if not worker.short:
            break
    if worker.rendered and time.monotonic() < deadline:
        worker.finish()
    worker.uploader.retry_now()
    while not (worker.uploader.idle or worker.uploader.refused) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    worker.outbox.discard_if_alone()  # a training run that was resumed meanwhile may use the same folder


def _warm_up() -> None:
    """Import the modules for the first snapshot while the training process loads its data."""
    import numpy as np

    from recon_worker.pictures.png import Panel, encode_png

    encode_png(Panel(values=np.zeros((1, 1), np.float32), value_range=(0, 1), colormap="gray", quantity="", unit=""))
