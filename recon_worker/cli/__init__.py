"""The program `recon-worker`: sync | status | render what was not uploaded in training; export | compare MLflow runs.

Runs as a separate process. Holds a spool's lock while changing it.

    main            arguments and dispatch
    console         exit codes; log messages on stderr
    sync            render, upload and remove the waiting files
    status          number, size and age of each run's waiting files
    render          write the pictures to a folder, without a server
    export          write reconstructions of an MLflow run to a file or folder
    compare         write a page that shows MLflow runs side by side
    spool_renderer  renders snapshots in a separate process, for `sync`
"""
