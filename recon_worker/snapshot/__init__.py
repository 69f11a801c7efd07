"""Records that cross from the training process to the worker, and their serialisation.

Used by both processes. Imports NumPy only; contacts no server.

    array_types   aliases of NumPy array types; object patches computed on access
    choices       allowed values of shared settings; free of heavy imports
    geometry      placement of the samples of a scan in the object
    records       `Scan`, once per run, and `Snapshot`, once per logged epoch, with its memory layout
    codec         serialises both, for shared memory and for the spool
    slots         shared memory mapped by both processes
    artifact      a rendered file on its way to MLflow
"""
