"""Worker side: stitches, renders and uploads snapshots of a reconstruction. Never imports torch or Lightning."""
