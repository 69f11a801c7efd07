"""The console script `recon-worker`: what to do with snapshots and pictures that a training left in its spool.

Owns the arguments and the exit codes. Imports nothing heavy before it has to: `--help` answers at once.
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from recon_worker.cli.exit_code import ExitCode
from recon_worker.cli.stderr_log import log_on_stderr
from recon_worker.system.databases import with_absolute_path
from recon_worker.system.messages import message_log
from recon_worker.system.standard_streams import escape_unencodable_output, occupy_descriptors
from recon_worker.system.uris import without_credentials

_log = message_log(__name__)

_T = TypeVar("_T")
_TIMEOUT_S = 300.0
_NOTHING = "nothing is left"
_DIR_HELP = "a spool directory (recon_spool), or the folder of one run in it"
_EPILOG = "\n".join(
    [
        "exit codes:",
        *(f"  {code.value}  {code.meaning}" for code in ExitCode),
        "",
        "Credentials are taken from the environment only: MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD,",
        "MLFLOW_TRACKING_TOKEN, or an MLFLOW_TRACKING_URI that holds them.",
    ]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    occupy_descriptors()
    escape_unencodable_output()
    arguments = _parser().parse_args(argv)
    with log_on_stderr():
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> ExitCode:
    from recon_worker.spool.folder import SpoolError

    command: Callable[[argparse.Namespace], ExitCode] = arguments.command
    try:
        return command(arguments)
    except SpoolError as error:
        _log.error("%s", error)
        return ExitCode.ERROR
    except OSError as error:
        _log.error("%s: %s", type(error).__name__, error)
        return ExitCode.ERROR
    except KeyboardInterrupt:
        _log.error("interrupted; what was not uploaded is kept, run the same command again.")
        return ExitCode.LEFT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recon-worker",
        description="Look at, draw, and bring to MLflow the reconstructions that a training could not upload itself.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_sync(_command(commands, "sync", _sync, "render and upload what waits, then remove it"))
    _add_status(_command(commands, "status", _status, "say what waits, for which run, since when; changes nothing"))
    _add_render(_command(commands, "render", _render, "write the pictures to a folder, without a server"))
    return parser


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], ExitCode],
    summary: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=summary, description=summary, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(command=run)
    parser.add_argument_group("what to read").add_argument("directory", metavar="DIR", type=Path, help=_DIR_HELP)
    return parser


def _add_sync(parser: argparse.ArgumentParser) -> None:
    where = parser.add_argument_group("where to")
    where.add_argument(
        "--tracking-uri", metavar="URI", type=_plain_uri, help="MLflow server (default: the one the training used)"
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=_TIMEOUT_S,
        help="give up uploading after so long, all runs together; what is left stays (default: %(default).0f)",
    )
    how.add_argument(
        "--retry-damaged", action="store_true", help="render once more what was set aside because it could not be"
    )
    how.add_argument("--dry-run", action="store_true", help="only say what would be done")


def _add_status(parser: argparse.ArgumentParser) -> None:
    parser.add_argument_group("output").add_argument("--json", action="store_true", help="a JSON list, for programs")


def _add_render(parser: argparse.ArgumentParser) -> None:
    parser.add_argument_group("where to").add_argument(
        "--out", metavar="OUT", type=Path, required=True, help="pictures go to OUT/<run id>/epoch_05/..."
    )


def _plain_uri(text: str) -> str:
    if without_credentials(text) != text:
        raise argparse.ArgumentTypeError(
            "it holds a password, or options that may be one, which others could see in the list of processes. Give "
            "the URI without them here, and user and password in MLFLOW_TRACKING_USERNAME and _PASSWORD, or all of it "
            "in MLFLOW_TRACKING_URI."
        )
    return with_absolute_path(text)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a time in seconds above 0.")
    return value


def _sync(arguments: argparse.Namespace) -> ExitCode:
    from recon_worker.cli.status import describe, run_folders, status

    folders = run_folders(arguments.directory)
    if not folders:
        print(_NOTHING)
        return ExitCode.DONE
    if arguments.dry_run:
        found, code = _each(folders, lambda folder: status(folder, arguments.tracking_uri))
        for one in found:
            code = max(code, ExitCode.ERROR if one.refusal else ExitCode.DONE)
            print(f"{describe(one)}\n  to: {arguments.tracking_uri or one.tracking_uri} (dry run: nothing was done)")
        return code
    from recon_worker.cli.sync import sync

    return sync(folders, arguments.tracking_uri, arguments.timeout, retry_damaged=arguments.retry_damaged)


def _status(arguments: argparse.Namespace) -> ExitCode:
    from recon_worker.cli.status import describe, run_folders, status

    found, code = _each(run_folders(arguments.directory), status)
    if arguments.json:
        print(json.dumps([asdict(one) for one in found], indent=1))
    elif any(one.left or one.in_use for one in found):
        print("\n".join(map(describe, found)))
    elif code is ExitCode.DONE:
        print(_NOTHING)
    return code


def _render(arguments: argparse.Namespace) -> ExitCode:
    from recon_worker.cli.status import render_to, run_folders
    from recon_worker.spool.folder import SpoolError

    out, directory = arguments.out.resolve(), arguments.directory.resolve()
    if out.is_relative_to(directory):
        raise SpoolError(f"--out {out} lies in the spool {directory}; choose a folder outside it.")
    folders = run_folders(directory)
    if not folders:
        print(_NOTHING)
    results, code = _each(folders, lambda folder: render_to(folder, out / folder.name))
    for number, failures in results:
        print(f"{number} pictures written to {out}")
        for failure in failures:
            _log.error("%s cannot be drawn: %s", failure.path, failure.reason)
    return max(code, ExitCode.LEFT if any(failures for _, failures in results) else ExitCode.DONE)


def _each(folders: Sequence[Path], look: Callable[[Path], _T]) -> tuple[list[_T], ExitCode]:
    """Look at every run; one that cannot be read is named and does not hide the others."""
    from recon_worker.spool.folder import SpoolError

    results, code = list[_T](), ExitCode.DONE
    for folder in folders:
        try:
            results.append(look(folder))
        except SpoolError as error:
            _log.error("%s", error)
            code = ExitCode.ERROR
    return results, code
