"""`recon-worker render`: writes a spool's pictures to a folder, without a server. Leaves the spool unchanged."""

import contextlib
from pathlib import Path

from recon_worker.pictures.artifacts import render
from recon_worker.pictures.history import History
from recon_worker.pictures.records import is_file
from recon_worker.snapshot.artifact import Artifact, Failure
from recon_worker.snapshot.codec import read_snapshot
from recon_worker.snapshot.records import Scan
from recon_worker.spool.outbox import Outbox, is_artifact_name
from recon_worker.system.errors import is_shortage
from recon_worker.upload.resume import history_of_spool


def render_to(folder: Path, out: Path) -> tuple[int, list[Failure]]:
    """Write the pictures waiting in a run's spool to a folder.

    Returns:
        The number of pictures, and the failures.

    Raises:
        SpoolError: The spool contains links, has another version, names no run, or has an unreadable scan.
    """
    outbox = Outbox(folder, create=False)
    outbox.target_and_owner()
    names, failures, history = set[str](), list[Failure](), history_of_spool(outbox) or History()
    for name in filter(is_file, outbox.artifacts()):
        with contextlib.suppress(FileNotFoundError):
            names.add(_write(out, Artifact(name, outbox.local_path(name).read_bytes())))
    for raw in outbox.raw():
        try:
            pictures = render_file(outbox.scan(), outbox.held(raw), history)
        except FileNotFoundError:
            continue  # rendered meanwhile
        except (OSError, MemoryError, RuntimeError) as error:  # a shortage; the file is kept
            pictures = [Failure(f"raw/{raw.name}", f"{type(error).__name__}: {error}")]
        failures += [made for made in pictures if isinstance(made, Failure)]
        names |= {_write(out, made) for made in pictures if isinstance(made, Artifact) and is_file(made.path)}
    return len(names), failures


def render_file(scan: Scan, raw: Path, history: History) -> list[Artifact | Failure]:
    """Render a snapshot file. A damaged file counts as one failure.

    Raises:
        OSError: The file cannot be read.
        Exception: The machine lacks a resource (`errors.is_shortage`); the file can be rendered later.
    """
    try:
        pictures = list(render(scan, read_snapshot(raw), history))
    except OSError:
        raise
    except Exception as error:  # a damaged or foreign file may raise anything in the codec, NumPy or the rendering
        if is_shortage(error):
            raise
        return [Failure(f"raw/{raw.name}", f"{type(error).__name__}: {error}")]
    return [
        made
        if isinstance(made, Failure) or is_artifact_name(made.path)
        else Failure(made.path, "it is not an artifact name of this program")
        for made in pictures
    ]


def _write(out: Path, artifact: Artifact) -> str:
    place = out / artifact.path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(artifact.data)
    return artifact.path
