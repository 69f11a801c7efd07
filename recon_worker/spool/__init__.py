"""The spool: the directory that keeps all data until it is in MLflow. It outlives every process.

Used by the training process, the worker and `recon-worker`. Reads and writes files; contacts no server.

    folder         a run's folder, held by its descriptor; finding the runs of a spool
    outbox         the content of that folder: snapshots, artifacts, history
    run_target     run.json: the MLflow run of a spool
    lock           locks a run's folder (flock)
    trust          signatures; whether a `sync` may contact the server named in a spool
    snapshot_file  snapshot files that the capture writes in place
    sync_command   the shell command that uploads a spool
"""
