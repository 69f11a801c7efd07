"""Selects runs, checks that they can be compared, and collects what a comparison shows."""

import re
from collections.abc import Sequence
from dataclasses import replace

from recon_worker.pictures.gallery.comparison import MOST_RUNS, ComparedRun, common_views
from recon_worker.reading.run import ReconRun, open_run
from recon_worker.reading.run_artifacts import ReadError, mlflow_errors
from recon_worker.spool.run_target import RunTarget
from recon_worker.system.uris import shown
from recon_worker.upload.mlflow_client import connect

_LOOKED_AT = 100
"""Number of latest runs of an experiment that are searched for reconstructions."""
_WITH_RECONSTRUCTIONS = 'tags."recon_log.fits" != ""'
_ZEROS = re.compile(r"(?<=^patch_)0+(?=\d)")
"""Leading zeros of a dataset index; their number depends on the largest index of the run."""


def runs_of_ids(run_ids: Sequence[str], tracking_uri: str) -> list[ReconRun]:
    """Open runs by their ids. Raises ReadError if one is unknown or named twice."""
    if repeated := next((one for one in run_ids if run_ids.count(one) > 1), None):
        raise ReadError(f"run {shown(repeated)} is named twice.")
    return [open_run(one, tracking_uri) for one in run_ids]


def latest_runs(experiment: str, count: int, tracking_uri: str) -> list[ReconRun]:
    """Open the latest runs of an experiment that have reconstructions, the oldest of them first.

    Raises:
        ReadError: There is no such experiment, or the server does not answer.
    """
    with mlflow_errors(f"experiment {experiment!r} at {shown(tracking_uri)} cannot be read"):
        client = connect(RunTarget(run_id="", tracking_uri=tracking_uri))
        found = client.get_experiment_by_name(experiment)
        if found is None:
            raise ReadError(f"there is no experiment {experiment!r} at {shown(tracking_uri)}.")
        latest = client.search_runs(
            [found.experiment_id],
            _WITH_RECONSTRUCTIONS,
            max_results=_LOOKED_AT,
            order_by=["attributes.start_time DESC"],
        )
    runs = list[ReconRun]()
    for one in latest:
        run = open_run(one.info.run_id, tracking_uri)
        runs += [run] if _shown(run).sizes() else []
        if len(runs) == count:
            break
    return runs[::-1]


def compared(runs: Sequence[ReconRun]) -> list[ComparedRun]:
    """Return what a comparison shows of runs, finished or not.

    Raises:
        ReadError: There are too few or too many; one has no reconstructions; they have no object in common, or objects
            of different sizes.
    """
    if not 2 <= len(runs) <= MOST_RUNS:
        raise ReadError(f"a comparison shows 2 to {MOST_RUNS} runs with reconstructions; here: {len(runs)}.")
    found = [_shown(run) for run in runs]
    for run, one in zip(runs, found, strict=True):
        if not one.sizes():
            later = " yet" if one.status == "RUNNING" else ""
            raise ReadError(f"{_named(one)} has no reconstructions in {shown(run.artifact_uri)}{later}.")
    views = common_views(found)
    if not views:
        what = "; ".join(f"{_named(one)} has {', '.join(one.sizes())}" for one in found)
        raise ReadError(f"the runs have no object in common: {what}.")
    for view in views:
        if len({one.sizes()[view] for one in found}) > 1:
            what = "; ".join("{}: {} x {} px".format(_named(one), *one.sizes()[view][::-1]) for one in found)
            raise ReadError(f"the runs have objects of different sizes ({view}); compare runs of one size. {what}.")
    return found


def _shown(run: ReconRun) -> ComparedRun:
    entries = [
        replace(entry, figures=tuple(replace(one, name=_ZEROS.sub("", one.name)) for one in entry.figures))
        for entry in run.gallery_entries()
    ]
    return ComparedRun(run_id=run.run_id, name=run.name, status=run.status, settings=run.settings, entries=entries)


def _named(run: ComparedRun) -> str:
    return f"run {shown(run.name)} ({run.run_id})"
