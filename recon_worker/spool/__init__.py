"""The directory that keeps everything which is not yet in MLflow. It survives every process.

Training process, worker and `recon-worker` use it; it reads and writes files, and knows no server.

    folder         a run's folder, held by its descriptor; finding the runs of a spool
    outbox         the content of that folder: snapshots, artifacts, history
    run_target     run.json: the MLflow run of a spool
    lock           who may work on a run's folder (flock)
    trust          signatures; whether a spool may decide which server a `sync` contacts
    snapshot_file  snapshot files that are captured into in place
    sync_command   the shell command that uploads a spool
"""
