"""Optional packages: present, or a fault that names the extra to install."""

from __future__ import annotations

from importlib.util import find_spec

from mmfed.errors import ExitCode, MmfedError


def require(extra: str, *modules: str) -> None:
    """Check that optional packages are there without importing them.

    Raises:
        MmfedError: one is not installed; the fix names the extra.
    """
    for module in modules:
        if find_spec(module) is None:
            raise MmfedError(
                ExitCode.MISSING_EXTRA,
                f"the Python package {module} is not installed, and this catalogue needs it.",
                f"pip install 'mmfed[{extra}]'",
            )
