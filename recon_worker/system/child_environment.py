"""Command and environment of the processes that render and upload.

Variables that a notebook, a shell or a batch system sets for its own programs can prevent workers from starting: a
plotting backend that is not installed, warnings as errors, a folder with a `queue.py` before the standard library. A
variable is therefore passed on only if a worker needs it to reach its server, to find its files or to start. A few are
set; all others are dropped. `RECON_LOG_PASS_ENV=NAME,OTHER` passes on more, for example for an MLflow plugin.

PYTHONPATH is not passed on: `launcher` imports this package from its own location, and other packages from the parent's
`sys.path`, but never before the standard library.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from recon_worker.system.mlflow_environment import for_uploads

PATH = "RECON_LOG_PATH"
"""Import path of the child after the standard library, as JSON."""
_PASS_ENV = "RECON_LOG_PASS_ENV"

_PASSED_PREFIXES = (
    "RECON_LOG_",  # this project
    *("MLFLOW_", "DATABRICKS_", "AZUREML_", "DAGSHUB_", "SAGEMAKER_"),  # tracking servers and plugins
    *("AWS_", "AZURE_", "ARM_", "IDENTITY_", "MSI_", "GOOGLE_", "GCP_", "GCLOUD_", "GCS_", "CLOUDSDK_", "S3_", "BOTO"),
    *("PG", "MYSQL_", "ODBC", "ORACLE_", "TNS_", "SQLALCHEMY_"),  # tracking servers that are databases
    *("KRB5", "SSH_", "XDG_", "LC_", "DYLD_", "OPENSSL_"),
)
_PASSED = frozenset(
    ["HOME", "USER", "LOGNAME", "PATH", "TMPDIR", "TEMP", "TMP", "LANG", "LANGUAGE", "TZ", "TZDIR"]
    + [name for proxy in ("HTTP", "HTTPS", "FTP", "ALL", "NO") for name in (f"{proxy}_PROXY", f"{proxy}_proxy".lower())]
    + ["SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC"]
    + ["RES_OPTIONS", "LOCALDOMAIN", "HOSTALIASES"]  # host name resolution
    + ["LD_LIBRARY_PATH", "LD_PRELOAD", "CONDA_PREFIX", "VIRTUAL_ENV"]  # the interpreter may depend on them
    + ["PYTHONHOME", "PYTHONPLATLIBDIR"]  # as the parent's interpreter used them
    + ["PYTHONNOUSERSITE", "PYTHONUSERBASE"]  # which packages are visible
    + ["PYTHONUTF8", "PYTHONCOERCECLOCALE"]  # encoding of file names
    + ["PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"]  # where Python may write byte code
    + ["MPLCONFIGDIR"]  # Matplotlib's font cache
    + ["OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "NPY_DISABLE_CPU_FEATURES", "KMP_DUPLICATE_LIB_OK"]
    + ["MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"]
)
_DEFAULTS = {
    "MALLOC_ARENA_MAX": "1",  # glibc returns freed memory to the system at once
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
    """Return the command that runs `main()` of a module of this package, for use with `child_environment`.

    Raises:
        FileNotFoundError: The interpreter is unknown, as in a program that embeds Python.
    """
    if not sys.executable:
        raise FileNotFoundError(
            f"sys.executable is {sys.executable!r}, as in a program that embeds Python; set it to the path of a Python "
            "interpreter that has this package."
        )
    return [sys.executable, "-P", str(Path(__file__).resolve().with_name("launcher.py")), module, *arguments]


def child_environment(parent: Mapping[str, str], path: Sequence[str]) -> dict[str, str]:
    """Return the environment of a process that renders or uploads: one thread, no GPU.

    Args:
        parent: Environment of this process.
        path: `sys.path` of this process. Relative entries, such as a notebook's own folder, are dropped.
    """
    chosen = {name.strip() for name in parent.get(_PASS_ENV, "").split(",")}
    passed = {
        name: value
        for name, value in for_uploads(parent).items()
        if name in _PASSED or name in chosen or name.startswith(_PASSED_PREFIXES)
    }
    folders = [str(folder) for folder in path if os.path.isabs(folder)]  # noqa: PTH117 - entries are text
    if sys.flags.ignore_environment:  # options are not inherited: here -E or -I
        passed = {name: value for name, value in passed.items() if not name.startswith("PYTHON")}
    mode = {"PYTHONUTF8": "1"} if sys.flags.utf8_mode else {}  # -X utf8
    return {**_DEFAULTS, **passed, **mode, **_SET, PATH: json.dumps(folders)}
