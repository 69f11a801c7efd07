"""Starts a module of this package in the environment of `child_environment`: python -P launcher.py MODULE ARGUMENT

Runs as a file, before the package can be imported, so it imports nothing from the package. Until `sys.path` is set it
imports as little as possible: a user's module may have the name of a standard library module.
"""

import os
import sys

_PATH = "RECON_LOG_PATH"


def after_standard_library(folders: list[str]) -> list[str]:
    """Return the standard library's entries of `sys.path` followed by `folders`, so that nothing can shadow it."""
    home = os.path.dirname(os.__file__)  # noqa: PTH120 - avoids the import of pathlib
    names = ("lib-dynload", f"python{sys.version_info.major}{sys.version_info.minor}.zip")
    standard = [folder for folder in sys.path if folder == home or folder.endswith(names)]
    return standard + [folder for folder in folders if folder not in standard]


def leave_removed_folder() -> None:
    """Change to "/" if the working directory was removed, as happens to temporary ones: MLflow needs one to connect."""
    try:
        os.getcwd()  # noqa: PTH109 - avoids the import of pathlib
    except OSError:
        os.chdir("/")


def _main() -> int:
    """Import this package from its own location, even if others have its name, and run `main()` of the named module."""
    import gc
    from json import loads

    gc.set_threshold(50_000)  # imports allocate but free nothing: saves 0.2 s of CPU time before the first upload

    sys.path[:] = after_standard_library(loads(os.environ[_PATH]))
    leave_removed_folder()

    from importlib import import_module
    from importlib.util import module_from_spec, spec_from_file_location
    from pathlib import Path

    home = Path(__file__).resolve().parent.parent
    spec = spec_from_file_location(home.name, home / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    package = module_from_spec(spec)
    sys.modules[home.name] = package
    spec.loader.exec_module(package)

    del sys.argv[0]
    return int(import_module(sys.argv[0]).main())


if __name__ == "__main__":
    sys.exit(_main())
