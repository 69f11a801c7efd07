"""The message at the start of a logged training run: what is logged, when, and where."""

from recon_worker.capture.dataset import RunData
from recon_worker.capture.plan import Interval
from recon_worker.settings import WorkerSettings
from recon_worker.spool.run_target import RunTarget
from recon_worker.system.messages import message_log
from recon_worker.system.uris import without_credentials

_log = message_log(__name__)


def announce(
    data: RunData, target: RunTarget, interval: Interval, last_epoch: int | None, worker: WorkerSettings | None
) -> None:
    """Log what will be logged to `target`; `last_epoch` is logged in any case, unless it is unknown (None)."""
    every = interval.every_n_epochs
    when = "every epoch" if every == 1 else f"every {every} epochs"
    last = f" and after epoch {last_epoch}" if last_epoch is not None and last_epoch > 0 and last_epoch % every else ""
    n_patches, n_stitch = data.layout.n_fixed, data.layout.n_stitch
    what = [
        f"the object stitched from {n_stitch} samples" if n_stitch else "",
        f"{n_patches} sample patch{'' if n_patches == 1 else 'es'}" if n_patches else "",
    ]
    scan = data.scan
    known = scan.label_amp is not None or any(truth is not None for truth in scan.ground_truth)
    truth = "compared with the ground truth" if known else "without ground truth"
    _log.info(
        "Reconstructions: %s%s, %s, %s\n  to MLflow run %s at %s, %s",
        when,
        last,
        " and ".join(filter(None, what)),
        truth,
        target.run_id,
        without_credentials(target.tracking_uri),
        "by the training process, which waits" if worker is None else f"by a worker process; spool: {worker.spool_dir}",
    )
