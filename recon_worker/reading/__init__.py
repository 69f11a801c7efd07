"""Reads the reconstructions of an MLflow run back as data: `recon_worker.open_run`, `recon-worker export`, `compare`.

Runs in the user's process, such as a notebook. Changes nothing in MLflow. Neither the server nor its artifacts are
trusted: only artifact names of this program are read, nothing is unpickled, and sizes are checked first.

    run           `open_run` and `ReconRun`: epochs, metrics, objects, patches, pictures
    logged        `LoggedObject`, `LoggedPatch`; decoding of arrays and pictures
    run_artifacts the artifacts of a run as local files; errors
    notebook      a run as HTML
    comparison    selects runs, and checks that they can be compared
"""
