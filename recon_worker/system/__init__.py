"""The operating system, and how the program reports. The bottom layer: every process uses it; it imports no other.

messages            loggers that never raise; sizes as text
errors              the root cause of an error on one line; errors that a shortage of resources causes
uris                tracking URIs without credentials
databases           SQLite databases behind tracking URIs
mlflow_environment  timeouts and retries of MLflow's HTTP client
child_environment   command and environment of child processes
launcher            entry script of child processes; runs before the package can be imported
handover            descriptors and the hurry signal, passed to a worker over a socket
folder_owner        whether another user controls a folder
standard_streams    closed or replaced stdin, stdout and stderr
"""
