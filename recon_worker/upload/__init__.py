"""Uploads a spool's outbox to MLflow. Runs in the worker, in `recon-worker sync`, and inline; accesses the network.

uploader       upload threads: send, read back, set aside
threads        starts as many threads as the limits of the machine permit
retry          decides whether and when to retry a failed request
errors         classifies server errors
mlflow_sink    one MLflow run: artifacts, metrics, image cards, description
image_cards    MLflow's image cards, each logged once
resume         folders and history of resumed training runs
mlflow_client  connects to MLflow
"""
