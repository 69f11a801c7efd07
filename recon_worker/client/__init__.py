"""The client side of the worker: accepts snapshots, and keeps a worker process running and supplied.

Runs in the training process on global rank zero. It may start processes and threads, delay signals, allocate shared
memory and write to the spool; it does not load torch, and only `InlineBackend` renders or talks to MLflow.

    backend         `ReconBackend`, the interface for the code that captures predictions
    inline_backend  `InlineBackend`, which implements it without a worker
    recon_worker    `ReconWorker`, which implements it with a worker: launch, start, submit, flush, close
    snapshot_queue  `SnapshotQueue`: the state of every snapshot, the overflow policy, retries
    job             `Job`: one snapshot on its way to MLflow
    slot_memory     `SlotMemory`: storage for waiting snapshots, in shared memory or in files
    supervisor      `Supervisor`: the thread that feeds and replaces the worker
    process         `WorkerProcess`: one worker process and its pipe
    run_folder      opens the run's folder in the spool, and reports or removes it at the end
    ledger          `Ledger`: counts the outcome of every snapshot; the line of each logged epoch
    depth_advice    recommends a queue depth; the table of events
    signals         `held_signals`: delays signals during an operation
"""
