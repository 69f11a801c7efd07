"""The program `recon-worker`: sync | status | render, for what a training could not upload itself.

Runs in a process of its own, on spools only; it holds a spool's lock while it changes anything.

    main            arguments and dispatch
    console         exit codes; log messages on stderr
    sync            render, upload and remove what waits
    status          what waits, for which run, since when
    render          write the pictures to a folder, without a server
    spool_renderer  renders snapshots in a process of its own, for `sync`
"""
