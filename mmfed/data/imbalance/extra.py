"""The ``trees`` extra (scikit-learn, imbalanced-learn, XGBoost): present, or a fault that says how to install it."""

from __future__ import annotations

from importlib.util import find_spec

from mmfed.errors import ExitCode, MmfedError


def require_trees(*modules: str) -> None:
    """Check that packages are there without importing them.

    Raises:
        MmfedError: one is not installed.
    """
    for module in modules:
        if find_spec(module) is None:
            raise MmfedError(
                ExitCode.MISSING_EXTRA,
                f"the Python package {module} is not installed, and behaviour classification needs it.",
                "pip install 'mmfed[trees]'",
            )
