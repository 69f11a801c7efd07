"""A file for MLflow, as it goes from rendering to the spool and to the upload."""

from dataclasses import dataclass

SCALES, GALLERY = HISTORY_FILES = "scales.json", "gallery.html"
"""What the pictures of later epochs need, and are artifacts too."""


@dataclass(frozen=True)
class Artifact:
    """A file to upload, or a record (`pictures.records`)."""

    path: str
    """Relative path with forward slashes, such as epoch_05/stitched/amp_pred.png."""
    data: bytes


@dataclass(frozen=True)
class Failure:
    """An artifact, or a group of them, that could not be made."""

    path: str
    reason: str
