"""Inject a fault into a process of recon_worker. Python imports this file at start-up if it is on PYTHONPATH.

Workers get no PYTHONPATH: `tests.faults.harness.interpreter_with` writes a launcher that starts Python with it.

RECON_FAULT is JSON: the program, the place in it, the kind, the maximum number of times (counted in a file over all
processes) and, for faults of one snapshot, its epoch.
"""

import errno
import json
import os
import signal
import sys
import time
from pathlib import Path

HOW = {
    "raise": lambda: (_ for _ in ()).throw(RuntimeError("a fault of the test")),
    "memory": lambda: (_ for _ in ()).throw(MemoryError("a shortage of the test")),
    "disk": lambda: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")),
    "descriptors": lambda: (_ for _ in ()).throw(OSError(errno.EMFILE, "Too many open files")),
    "hang": lambda: time.sleep(3600),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segv": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "exit": lambda: os._exit(7),
}


def _before(owner, name, fault):
    """Make a function of a module or class commit the fault first."""
    whole = getattr(owner, name)

    def faulty(*args, **kwargs):
        result = whole(*args, **kwargs) if fault["epoch"] is not None else None
        if fault["epoch"] is None or result[0]["epoch"] == fault["epoch"]:
            _commit(fault)
        return whole(*args, **kwargs)

    setattr(owner, name, faulty)


def _commit(fault):
    counter = os.open(fault["counter"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    if os.fstat(counter).st_size < fault["times"]:
        os.write(counter, b"!")
        HOW[fault["how"]]()
    os.close(counter)


def _inject(fault):
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    import recon_worker.pictures.artifacts
    import recon_worker.pictures.snapshot_figures
    import recon_worker.snapshot.codec
    import recon_worker.spool.outbox
    import recon_worker.upload.mlflow_sink
    import recon_worker.upload.resume

    places = {
        "start-up": (os, "nice"),
        "set-up": (recon_worker.snapshot.codec, "load_brief"),
        "history": (recon_worker.upload.resume, "load_history"),
        "read": (recon_worker.snapshot.codec, "parse_header"),
        "stitch": (recon_worker.pictures.snapshot_figures, "stitch"),
        "render": (recon_worker.pictures.artifacts, "encode_png"),
        "finish": (recon_worker.pictures.artifacts, "finish"),
        "outbox": (recon_worker.spool.outbox.Outbox, "put"),
        "upload": (recon_worker.upload.mlflow_sink.MlflowSink, "upload"),
        "report": (recon_worker.upload.mlflow_sink.MlflowSink, "log_numbers"),
    }
    _before(*places[fault["where"]], fault)


sys.executable = os.environ.get("RECON_INTERPRETER", sys.executable)  # for child processes
FAULT = json.loads(os.environ.get("RECON_FAULT", "null"))
if FAULT is not None and f"recon_worker.{FAULT['program']}" in sys.orig_argv:
    _inject(FAULT)
