"""Starts a module of this package in a process with `child_environment`: python -P launcher.py MODULE ARGUMENT...

Run as a file, before anything of this package can be imported. Imports as little as possible before the path is right:
a user's module may have the name of one of the standard library.
"""

import os
import sys

_PATH = "RECON_LOG_PATH"


def after_standard_library(folders: list[str]) -> list[str]:
    """The standard library as it is in `sys.path`, and then `folders`: no module of theirs can take its place."""
    home = os.path.dirname(os.__file__)  # noqa: PTH120 - see above
    names = ("lib-dynload", f"python{sys.version_info.major}{sys.version_info.minor}.zip")
    standard = [folder for folder in sys.path if folder == home or folder.endswith(names)]
    return standard + [folder for folder in folders if folder not in standard]


def _import_package() -> None:
    """Import the package that this file lies in, from its own place, whatever else there is of that name."""
    from importlib.util import module_from_spec, spec_from_file_location
    from pathlib import Path

    place = Path(__file__).resolve().parent.parent
    spec = spec_from_file_location(place.name, place / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    package = module_from_spec(spec)
    sys.modules[place.name] = package
    spec.loader.exec_module(package)


def _main() -> int:
    import gc
    from json import loads

    gc.set_threshold(50_000)  # imports allocate and free nothing: 0.2 s less processor time before the first upload

    sys.path[:] = after_standard_library(loads(os.environ[_PATH]))
    _import_package()

    from importlib import import_module

    del sys.argv[0]
    return int(import_module(sys.argv[0]).main())


if __name__ == "__main__":
    sys.exit(_main())
