"""The worker process: renders snapshots out of shared slots into the outbox, while an uploader empties that.

    pipe: setup, reserve, job, file, retry, finish, stop -> WorkerRun -> outbox -> uploader threads -> MLflow
          <- ready, reserved, began, alive, rendered, finished, logged, refused, aside, log

Started by `client.ReconWorker` through `launcher`, with its pipe and slots as inherited descriptors.
It ignores SIGINT and SIGTERM, which a whole process group gets: it obeys the pipe. When the pipe closes without
`stop` the training process is dead; then it writes what lies in the slots to the spool, renders and uploads what it
can within the flush timeout, and exits: `Watchdog` sees to that if it hangs. What it must know for that lies in shared
memory too: the training process may die before it has said anything.
"""

import argparse
import contextlib
import functools
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from recon_worker.snapshot.codec import CodecError, dump_snapshot, parse_header
from recon_worker.snapshot.records import Snapshot
from recon_worker.snapshot.slots import Slot, SlotContent, read_all
from recon_worker.spool.outbox import Outbox, RunTarget
from recon_worker.spool.snapshot_file import make_ready
from recon_worker.system.handover import HURRY, take_over
from recon_worker.upload.run_sink import RunSink
from recon_worker.upload.uploader import MAX_UPLOAD_THREADS
from recon_worker.worker.channel import Channel, Message, PipeHandler
from recon_worker.worker.priority import Pace
from recon_worker.worker.run import Sink, WorkerRun
from recon_worker.worker.watchdog import Watchdog

_POLL_S = 0.1
_TRIES_AFTER_S = (0.0, 1.0, 2.0, 4.0)
"""When a worker without its training tries again what the machine was too short of something for."""


class Worker:
    """What the worker does with each message.

    Args:
        channel: The pipe.
        handover: Descriptor of a socket in which the spool's lock and folder come, and later that there is a hurry.
            Until this process takes the lock itself, that it is on its way is enough to hold it.
        brief: Shared memory with what there is to know about the run (`codec.dump_brief`).
        slots: The queue's memory.
        make_sink: Makes what uploads; called before it is needed, so it should not connect yet.
        watchdog: Has the process end when the training process is dead.
        pace: How the heavy work is done.
    """

    def __init__(
        self,
        channel: Channel,
        handover: int,
        brief: int,
        slots: list[Slot],
        make_sink: Callable[[RunTarget], Sink],
        watchdog: Watchdog,
        pace: Pace,
    ) -> None:
        self._channel, self._brief, self._slots, self._make_sink = channel, brief, slots, make_sink
        self._handover, self._pace = handover, pace
        self._watchdog, self._keeping = watchdog, threading.Lock()
        watchdog.keep = self._keep_slots
        self._run: WorkerRun | None = None

    def serve(self) -> None:
        """Obey until `stop`, or, without the training process, until all is uploaded.

        The last is bounded by the flush timeout; what is left then stays in the outbox.
        """
        try:
            while (message := self._channel.receive())["do"] != "stop":
                self._handle(message)
        except EOFError:
            self._finish_alone(self._watchdog.orphaned())
        finally:
            if self._run is not None:
                self._run.uploader.stop()

    def _handle(self, message: Message) -> None:
        if message["do"] == "setup":
            self._set_up().upload_again(message["unlogged"])
        else:
            assert self._run is not None
            self._handle_of_run(self._run, message)

    def _handle_of_run(self, run: WorkerRun, message: Message) -> None:
        if message["do"] == "reserve":
            self._reserve(run, message["slots"], [Path(name) for name in message["files"]], message["nbytes"])
        elif message["do"] == "finish":
            run.finish_for(message["generation"], message["names"])
        elif message["do"] == "retry":
            run.uploader.try_again()
        elif message["do"] == "job":
            run.remember(message)
            self._do_slot(run, message["slot"], message["generation"])
        elif message["do"] == "file":
            run.remember(message)
            run.do_file(message["generation"], Path(message["path"]))

    def _reserve(self, run: WorkerRun, slots: list[int], files: list[Path], nbytes: int) -> None:
        """Have the memory and the files of the queue ready before the first snapshot needs them."""
        for number in slots:
            with contextlib.suppress(OSError):
                self._slots[number].reserve(nbytes)
                self._slots[number].fault_in()
            self._say_alive()
        for file in files:
            with contextlib.suppress(OSError):  # whoever captures into it will say what is wrong
                self._pace.run(functools.partial(make_ready, run.outbox.held(file), nbytes, self._say_alive))
        self._channel.send(**{"is": "reserved"})

    def _say_alive(self) -> None:
        self._channel.send(**{"is": "alive"})

    def _set_up(self) -> WorkerRun:
        training = socket.socket(fileno=self._handover)
        said, spool = take_over(training)
        lock, folder = spool or (None, None)
        self._run = WorkerRun(read_all(self._brief), self._channel, self._make_sink, self._pace, folder)
        if lock is not None:
            os.close(lock)
        threading.Thread(target=self._listen_for_hurry, args=(training, said), name="hurry", daemon=True).start()
        return self._run

    def _listen_for_hurry(self, training: socket.socket, said: bytes) -> None:
        """Wait until the training says so, or is dead; `said`: what it has said already."""
        with training:
            while HURRY not in said:
                said, descriptors, *_ = socket.recv_fds(training, 64, 2)
                for descriptor in descriptors:
                    os.close(descriptor)
                if not said:
                    break
        self._pace.hurry()

    def _from_slot(self, number: int, generation: int) -> Snapshot:
        content = self._slots[number].content()
        if content is None or content.generation != generation:
            raise CodecError(f"slot {number} does not hold snapshot {generation}.")
        record, layout = parse_header(content.header)
        return Snapshot(**record, arrays=self._slots[number].arrays(layout))

    def _finish_alone(self, deadline: float) -> None:
        """The training process is dead: render what is ready and upload it, until the deadline (monotonic), and go."""
        self._pace.hurry()
        if self._run is None and os.fstat(self._brief).st_size:
            self._set_up().upload_again({})
        if (run := self._run) is None:
            return  # no training had begun
        for wait_s in _TRIES_AFTER_S:
            time.sleep(max(0.0, min(wait_s, deadline - time.monotonic())))
            self._render_rest(run, deadline)
            if not run.short:
                break
        if run.done and time.monotonic() < deadline:
            run.finish_alone()
        run.uploader.try_again()
        while not (run.uploader.idle or run.uploader.refused) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        run.leave()

    def _render_rest(self, run: WorkerRun, deadline: float) -> None:
        """Render what lies in the spool, and what lies in memory because it could not be written there."""
        self._keep_slots()
        on_disk = run.outbox.raw_generations()
        in_memory = {c.generation: n for n, slot in enumerate(self._slots) if (c := slot.content()) is not None}
        for generation in sorted({*on_disk, *in_memory} - run.done):
            if time.monotonic() > deadline:
                break
            if generation in on_disk:
                run.do_file(generation, on_disk[generation])
            else:
                self._do_slot(run, in_memory[generation], generation)
        for generation in on_disk.keys() & run.done:
            run.outbox.held(on_disk[generation]).unlink(missing_ok=True)

    def _do_slot(self, run: WorkerRun, number: int, generation: int) -> None:
        run.do(generation, lambda: self._from_slot(number, generation))

    def _keep_slots(self) -> None:
        """The training process is dead: have what lies in the slots on disk, before anything else can go wrong.

        Called from the watchdog's thread, where this one may hang, and from this one, which may not be set up before.
        """
        with self._keeping:
            if self._run is None:
                return
            kept = self._run.outbox.raw_generations().keys() | self._run.done
            for slot in self._slots:
                content = slot.content()
                if content is not None and content.generation not in kept:
                    _keep_slot(self._run.outbox, slot, content)
            self._watchdog.kept()


def _keep_slot(outbox: Outbox, slot: Slot, content: SlotContent) -> None:
    with contextlib.suppress(OSError, CodecError):  # nobody is left to be told; it can be rendered all the same
        record, layout = parse_header(content.header)
        parts = dump_snapshot(content.header, slot.array_bytes(layout.nbytes))
        outbox.put_raw(content.generation, record["epoch"], parts)


def main() -> int:
    """Entry point of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parser = argparse.ArgumentParser(description="Started by the training process; not meant to be called by hand.")
    parser.add_argument("parent", type=int)
    parser.add_argument("pipe", type=int)
    parser.add_argument("handover", type=int)
    parser.add_argument("brief", type=int)
    parser.add_argument("linger_s", type=float)
    parser.add_argument("slots", type=int, nargs="+")
    arguments = parser.parse_args()
    watchdog = Watchdog(arguments.parent, arguments.linger_s)
    pace = Pace(MAX_UPLOAD_THREADS + 1)
    _do_without("pandas", "pyarrow")
    _set_title()
    channel = Channel(Connection(arguments.pipe), arguments.parent)
    logging.getLogger().addHandler(PipeHandler(channel))
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # the uploader says, once, that it tries again
    logging.getLogger("recon_worker.spool.lock").setLevel(logging.ERROR)  # the training process has said it
    pace.run(_warm_up)
    channel.send(**{"is": "ready"})
    slots = [Slot(descriptor) for descriptor in arguments.slots]
    Worker(channel, arguments.handover, arguments.brief, slots, RunSink, watchdog, pace).serve()
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)  # an upload that hangs, or mlflow's own threads, must not keep the process


def _do_without(*packages: str) -> None:
    """Have imports of packages fail in this process: MLflow takes 80 MB for these two, which no upload needs."""
    for package in packages:
        sys.modules[package] = None  # type: ignore[assignment]


def _set_title() -> None:
    """Name the process in `ps` and `top`, where the system has a file for it."""
    title = Path("/proc/self/comm")
    if title.exists():
        with contextlib.suppress(OSError):  # a container may forbid it
            title.write_text("recon-worker")


def _warm_up() -> None:
    """Import what the first snapshot needs while the training process is still loading its data."""
    import numpy as np

    from recon_worker.pictures.png import Panel, encode_png

    encode_png(Panel(values=np.zeros((1, 1), np.float32), value_range=(0, 1), colormap="gray", quantity="", unit=""))
