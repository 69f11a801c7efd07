"""The console script `recon-worker`: arguments and dispatch. Heavy imports wait until a command runs."""

import argparse
import contextlib
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from recon_worker.cli.console import ExitCode, log_on_stderr, say
from recon_worker.spool.folder import SpoolError, run_folders
from recon_worker.system.databases import with_absolute_path
from recon_worker.system.launcher import leave_removed_folder
from recon_worker.system.messages import message_log
from recon_worker.system.standard_streams import occupy_descriptors
from recon_worker.system.uris import without_credentials

_log = message_log(__name__)

_T = TypeVar("_T")
_TIMEOUT_S = 300.0
_NOTHING = "nothing is left"
_SERVER = "MLflow server or database (default: $MLFLOW_TRACKING_URI)"
_EPILOG = f"""\
exit codes:
  {ExitCode.DONE}  everything is done
  {ExitCode.LEFT}  something is left or damaged; nothing is lost, run the command again
  {ExitCode.ERROR}  wrong usage, an unreadable spool or run, or a spool that names a server which you must confirm
  {ExitCode.BUSY}  another process uses the spool

Credentials are read from the environment (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD, MLFLOW_TRACKING_TOKEN,
or an MLFLOW_TRACKING_URI that contains them) or from MLflow's file ~/.mlflow/credentials.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    occupy_descriptors()
    leave_removed_folder()
    with contextlib.suppress(AttributeError, ValueError):  # stdout is closed or replaced
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # paths may contain any bytes
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], ExitCode] = arguments.command
    with log_on_stderr():
        try:
            return command(arguments)
        except SpoolError as error:
            _log.error("%s", error)
            return ExitCode.ERROR
        except OSError as error:
            _log.error("%s: %s", type(error).__name__, error)
            return ExitCode.ERROR
        except KeyboardInterrupt:
            _log.error("interrupted; nothing is lost. Run the same command again.")
            return ExitCode.LEFT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recon-worker",
        description="Inspect, render and upload reconstructions that could not be uploaded during training, and "
        "export or compare those that are in MLflow.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    sync = _add_command(commands, "sync", _sync, "render and upload what is left, then remove it")
    sync.add_argument_group("destination").add_argument(
        "--tracking-uri", metavar="URI", type=_uri, help="MLflow server (default: the server named in the spool)"
    )
    seconds = "time limit for uploading, for all runs together; the rest is kept (default: %(default).0f)"
    sync.add_argument("--timeout", metavar="SECONDS", type=_seconds, default=_TIMEOUT_S, help=seconds)
    sync.add_argument("--retry-damaged", action="store_true", help="render the snapshots in *.damaged files again")
    sync.add_argument("--dry-run", action="store_true", help="show what would be done, but do nothing")

    status = _add_command(commands, "status", _status, "show what is left, for each run, with its age; change nothing")
    status.add_argument_group("output").add_argument("--json", action="store_true", help="print a JSON list")

    render = _add_command(commands, "render", _render, "write the pictures to a folder, without a server")
    render.add_argument_group("destination").add_argument(
        "--out", metavar="OUT", type=Path, required=True, help="folder of the pictures: OUT/<run id>/epoch_05/..."
    )
    _add_export(commands)
    _add_compare(commands)
    return parser


def _add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], ExitCode],
    summary: str,
) -> argparse.ArgumentParser:
    parser = _new_command(commands, name, run, summary)
    parser.add_argument_group("input").add_argument(
        "directory", metavar="DIR", type=Path, help="spool directory (recon_spool), or the folder of one run in it"
    )
    return parser


def _add_export(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _new_command(commands, "export", _export, "write reconstructions of an MLflow run to a file or folder")
    source = parser.add_argument_group("input")
    source.add_argument("run_id", metavar="RUN", help="ID of the MLflow run")
    source.add_argument("--tracking-uri", metavar="URI", type=_uri, help=_SERVER)
    source.add_argument("--epoch", metavar="N", type=int, help="default: the last one for a file, all for a folder")
    source.add_argument("--object", metavar="N", type=int, dest="number", help="number of the object (default: 0)")
    out = "object.npz, object.cxi (HDF5), or a folder without a suffix, which gets all pictures and metrics"
    destination = parser.add_argument_group("destination")
    destination.add_argument("--out", metavar="OUT", type=Path, required=True, help=out)
    destination.add_argument("--force", action="store_true", help="replace existing files")


def _add_compare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _new_command(commands, "compare", _compare, "show MLflow runs side by side on one HTML page")
    source = parser.add_argument_group("input")
    source.add_argument("run_ids", metavar="RUN", nargs="*", help="IDs of the MLflow runs")
    source.add_argument("--experiment", metavar="NAME", help="compare the latest runs of an experiment instead")
    source.add_argument("--last", metavar="N", type=int, help="with --experiment: number of runs (default: 5)")
    source.add_argument("--tracking-uri", metavar="URI", type=_uri, help=_SERVER)
    destination = parser.add_argument_group("destination")
    destination.add_argument("--out", metavar="OUT", type=Path, help="HTML file")
    destination.add_argument("--force", action="store_true", help="replace an existing file")
    destination.add_argument("--log", action="store_true", help="log the page to MLflow, as a run of its own")


def _new_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], ExitCode],
    summary: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=summary, description=summary, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(command=run)
    return parser


class _Version(argparse.Action):
    """Prints the version of the distribution, or "unknown" if it is not installed."""

    def __call__(self, parser: argparse.ArgumentParser, *ignored: object) -> None:
        from importlib.metadata import PackageNotFoundError, version

        found = "unknown"
        with contextlib.suppress(PackageNotFoundError):
            found = version("recon-worker")
        print(parser.prog, found)
        parser.exit()


def _uri(text: str) -> str:
    if without_credentials(text) != text:
        raise argparse.ArgumentTypeError(
            "it holds a password, or options that may be one, which other users could see in the list of processes. "
            "Pass the URI without them, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or set "
            "MLFLOW_TRACKING_URI to the complete URI."
        )
    return with_absolute_path(text)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a time in seconds above 0.")
    return value


def _sync(arguments: argparse.Namespace) -> ExitCode:
    folders = run_folders(arguments.directory)
    if not folders:
        say(_NOTHING)
        return ExitCode.DONE
    if not arguments.dry_run:
        from recon_worker.cli.sync import sync

        return sync(folders, arguments.tracking_uri, arguments.timeout, retry_damaged=arguments.retry_damaged)
    from recon_worker.cli.status import describe, status

    found, code = _each(folders, lambda folder: status(folder, arguments.tracking_uri))
    for one in found:
        code = max(code, ExitCode.ERROR if one.refusal else ExitCode.DONE)
        say(f"{describe(one)}\n  to: {arguments.tracking_uri or one.tracking_uri} (dry run: nothing was done)")
    return code


def _status(arguments: argparse.Namespace) -> ExitCode:
    from recon_worker.cli.status import describe, status

    found, code = _each(run_folders(arguments.directory), status)
    if arguments.json:
        say(json.dumps([asdict(one) for one in found], indent=1))
    elif any(one.left or one.in_use for one in found):
        say("\n".join(map(describe, found)))
    elif code is ExitCode.DONE:
        say(_NOTHING)
    return code


def _render(arguments: argparse.Namespace) -> ExitCode:
    from recon_worker.cli.render import render_to

    out, directory = arguments.out.resolve(), arguments.directory.resolve()
    if out.is_relative_to(directory):
        raise SpoolError(f"--out {out} lies in the spool {directory}; choose a folder outside it.")
    folders = run_folders(directory)
    if not folders:
        say(_NOTHING)
    results, code = _each(folders, lambda folder: render_to(folder, out / folder.name))
    for number, failures in results:
        say(f"{number} pictures written to {out}")
        for failure in failures:
            _log.error("%s cannot be rendered: %s", failure.path, failure.reason)
    return max(code, ExitCode.LEFT if any(failures for _, failures in results) else ExitCode.DONE)


def _export(arguments: argparse.Namespace) -> ExitCode:
    from recon_worker.cli.export import export

    options = {name: getattr(arguments, name) for name in ("tracking_uri", "epoch", "number", "force")}
    return _read(lambda: export(arguments.run_id, arguments.out, **options))


def _compare(arguments: argparse.Namespace) -> ExitCode:
    from recon_worker.cli.compare import compare

    names = ("tracking_uri", "experiment", "last", "out", "log", "force")
    return _read(lambda: compare(arguments.run_ids, **{name: getattr(arguments, name) for name in names}))


def _read(command: Callable[[], str]) -> ExitCode:
    """Run a command that reads runs, and print what it returns."""
    from recon_worker.reading.run_artifacts import ReadError

    try:
        say(command())
    except ReadError as error:
        _log.error("%s", error)
        return ExitCode.ERROR
    return ExitCode.DONE


def _each(folders: Sequence[Path], look: Callable[[Path], _T]) -> tuple[list[_T], ExitCode]:
    """Apply a function to every run. Unreadable runs are reported and skipped."""
    results, code = list[_T](), ExitCode.DONE
    for folder in folders:
        try:
            results.append(look(folder))
        except (SpoolError, FileNotFoundError) as error:
            _log.error("%s", error)
            code = ExitCode.ERROR
    return results, code
