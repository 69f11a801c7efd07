"""A rendered file on its way to MLflow: from the renderer through the spool to the uploader."""

from dataclasses import dataclass

SCALES, GALLERY = HISTORY_FILES = "scales.json", "gallery.html"
"""Artifacts that later epochs read back: colour ranges and gallery of the run."""

TILES = "tiles.html"
"""The page that shows large objects at full resolution."""


@dataclass(frozen=True)
class Artifact:
    """A file to upload, or a record that MLflow stores in its own form (`pictures.records`)."""

    path: str
    """Relative path with forward slashes, such as epoch_05/stitched/amp_pred.png."""
    data: bytes


@dataclass(frozen=True)
class Failure:
    """An artifact or group of artifacts whose rendering or upload failed."""

    path: str
    reason: str
