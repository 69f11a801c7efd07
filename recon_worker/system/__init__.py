"""Operating system and reporting. The bottom layer: used by every process, imports no other package.

messages            loggers that never raise; sizes as text
arguments           checks of the types of arguments and settings
errors              the root cause of an error on one line; errors caused by a lack of resources
handler_errors      errors that signal handlers of the application raise
uris                tracking URIs without credentials
databases           SQLite databases behind tracking URIs
mlflow_environment  timeouts and retries of MLflow's HTTP client
child_environment   command and environment of child processes
launcher            entry script of child processes; runs before the package can be imported
handover            descriptors and the hurry signal, passed to a worker over a socket
folder_owner        whether another user controls a folder
standard_streams    closed or replaced stdin, stdout and stderr
"""
