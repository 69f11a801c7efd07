"""The environment of the processes that render and upload: a list of its own, not what the parent happens to have.

What a notebook, a shell or a batch system sets for its own programs can keep every worker from starting: a plotting
backend that is not installed here, warnings that are errors, a folder with a `queue.py` before the standard library. So
a variable is passed on only if a worker needs it to reach its server, to find its files or to start at all; all others
are dropped, and a few are set. `RECON_LOG_PASS_ENV=NAME,OTHER` passes on more, as a plugin of MLflow may need.

There is no PYTHONPATH: `launcher` finds this package by its place, and other packages where the parent finds them, but
never before the standard library.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from recon_worker.system.mlflow_environment import for_uploads

PATH = "RECON_LOG_PATH"
"""Where the child looks for packages, after the standard library; JSON."""
_MORE = "RECON_LOG_PASS_ENV"

_PASSED_PREFIXES = (
    "RECON_LOG_",  # this project's own
    *("MLFLOW_", "DATABRICKS_", "AZUREML_", "DAGSHUB_", "SAGEMAKER_"),  # the tracking server, and plugins for it
    *("AWS_", "AZURE_", "ARM_", "IDENTITY_", "MSI_", "GOOGLE_", "GCP_", "GCLOUD_", "GCS_", "CLOUDSDK_", "S3_", "BOTO"),
    *("PG", "MYSQL_", "ODBC", "ORACLE_", "TNS_", "SQLALCHEMY_"),  # tracking servers that are databases
    *("KRB5", "SSH_", "XDG_", "LC_", "DYLD_", "OPENSSL_"),
)
_PASSED = frozenset(
    ["HOME", "USER", "LOGNAME", "PATH", "TMPDIR", "TEMP", "TMP", "LANG", "LANGUAGE", "TZ", "TZDIR"]
    + [name for proxy in ("HTTP", "HTTPS", "FTP", "ALL", "NO") for name in (f"{proxy}_PROXY", f"{proxy}_proxy".lower())]
    + ["SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC"]
    + ["RES_OPTIONS", "LOCALDOMAIN", "HOSTALIASES"]  # how names of hosts are looked up
    + ["LD_LIBRARY_PATH", "LD_PRELOAD", "CONDA_PREFIX", "VIRTUAL_ENV"]  # the interpreter may not start without
    + ["PYTHONHOME", "PYTHONPLATLIBDIR"]  # the same; the parent has used them too
    + ["PYTHONNOUSERSITE", "PYTHONUSERBASE"]  # which packages there are
    + ["PYTHONUTF8", "PYTHONCOERCECLOCALE"]  # how names of files are read
    + ["PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"]  # where Python may write
    + ["MPLCONFIGDIR"]  # where Matplotlib may keep its list of fonts
    + ["OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "NPY_DISABLE_CPU_FEATURES", "KMP_DUPLICATE_LIB_OK"]
    + ["MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"]
)
_DEFAULTS = {
    "MALLOC_ARENA_MAX": "1",  # glibc gives memory back to the system when it is free, not when the process ends
    "MALLOC_MMAP_THRESHOLD_": str(2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**20),
}
_SET = {
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
}


def child_command(module: str, *arguments: str) -> list[str]:
    """What starts `module` of this package, which has a `main()`, in a process with `child_environment`."""
    return [sys.executable, "-P", str(Path(__file__).resolve().with_name("launcher.py")), module, *arguments]


def child_environment(parent: Mapping[str, str], path: Sequence[str]) -> dict[str, str]:
    """The environment of a process that renders or uploads: see above; one thread, no GPU.

    Args:
        parent: Environment of this process.
        path: `sys.path` of this process. What is relative in it is left out: the user's own modules, in notebooks.
    """
    more = {name.strip() for name in parent.get(_MORE, "").split(",")}
    passed = {
        name: value
        for name, value in for_uploads(parent).items()
        if name in _PASSED or name in more or name.startswith(_PASSED_PREFIXES)
    }
    folders = [str(folder) for folder in path if os.path.isabs(folder)]  # noqa: PTH117 - entries are text
    mode = {"PYTHONUTF8": "1"} if sys.flags.utf8_mode else {}  # -X utf8 is not in the environment
    return {**_DEFAULTS, **passed, **mode, **_SET, PATH: json.dumps(folders)}
