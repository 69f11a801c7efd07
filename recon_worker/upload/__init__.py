"""Uploads a spool's outbox to MLflow. Runs in the worker, in `recon-worker sync`, and inline; talks to the network.

uploader       upload threads: send, read back, set aside
retry          whether and when a failed request is repeated
errors         what an error of a server means
mlflow_sink    one MLflow run: artifacts, metrics, image cards, description
image_cards    MLflow's image cards, each logged once
resume         folders and history of resumed trainings
mlflow_client  connects to MLflow
"""
