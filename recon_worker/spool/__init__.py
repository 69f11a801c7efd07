"""The spool: the directory that keeps everything until it is in MLflow. It survives every process.

The training process, the worker and `recon-worker` use it. It reads and writes files and contacts no server.

    folder         a run's folder, held by its descriptor; finding the runs of a spool
    outbox         the content of that folder: snapshots, artifacts, history
    run_target     run.json: the MLflow run of a spool
    lock           who may work on a run's folder (flock)
    trust          signatures; whether a spool may decide which server a `sync` contacts
    snapshot_file  snapshot files that the capture writes in place
    sync_command   the shell command that uploads a spool
"""
