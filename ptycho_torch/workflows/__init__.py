"""Workflows: training, checkpoints, MLflow runs, reconstruction and refinement of scans."""
