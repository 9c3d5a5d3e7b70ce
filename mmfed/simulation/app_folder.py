"""A copy of what a host runs and of the scenarios, for who installed mmfed without its repository."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import tomli_w

import mmfed
from mmfed.errors import ExitCode, MmfedError
from mmfed.records import storage_faults

PARTS = ("server", "client", "simulations")
_NOT_COPIED = shutil.ignore_patterns(
    "__pycache__", "*.pyc", "build_demo_*", "demo_words*"
)  # these make the bundled shop


def new_app(folder: Path) -> list[Path]:
    """Write server/, client/, simulations/ and the ``pyproject.toml`` that ``flwr run`` needs; the files written.

    Raises:
        MmfedError: the folder is in use or cannot be written, or the installed package lacks its copies.
    """
    source = _source()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise MmfedError(ExitCode.STORAGE, f"{folder}: exists and is not an empty folder.", "choose a new folder.")
    with storage_faults(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            for part in PARTS:
                shutil.copytree(source / part, partial / part, ignore=_NOT_COPIED)
            (partial / "pyproject.toml").write_text(tomli_w.dumps(_project()), encoding="utf-8")
            partial.chmod(0o755)
            partial.replace(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _source() -> Path:
    """Where the copies are: in the installed package, or beside it in a checkout."""
    package = Path(mmfed.__file__).resolve().parent
    for place in (package / "_apps", package.parent):
        if all((place / part).is_dir() for part in PARTS):
            return place
    raise MmfedError(
        ExitCode.STORAGE, f"{package}: the server, client and simulations folders are missing.", "install mmfed again."
    )


def _project() -> dict[str, object]:
    """The Flower app's own description, as in mmfed's repository."""
    flower = {
        "publisher": "mmfed",
        "components": {"serverapp": "server.app:app", "clientapp": "client.app:app"},
        "config": {"scenario": "", "overrides": "", "config": "", "resume": False},
    }
    project = {
        "name": "mmfed-app",
        "version": mmfed.__version__,
        "description": "Coordinator and device of an mmfed federation",
        "license": "Apache-2.0",
        "dependencies": [f"mmfed=={mmfed.__version__}"],
    }
    return {"project": project, "tool": {"flwr": {"app": flower}}}
