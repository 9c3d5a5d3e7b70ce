"""Scenario files: TOML, read into plain trees."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from mmfed.errors import ExitCode, MmfedError


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a plain tree.

    Raises:
        MmfedError: the file is missing, not UTF-8 or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MmfedError(
            ExitCode.CONFIG, f"{path}: no such file.", "give the path of a scenario file (*.toml)."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise MmfedError(
            ExitCode.CONFIG, f"{path}: cannot be read ({error}).", "give a readable UTF-8 TOML file."
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise MmfedError(ExitCode.CONFIG, f"{path}: not valid TOML: {error}.", "mend that line.") from None


def read_scenario(path: Path) -> dict[str, Any]:
    """A scenario file as a plain tree; a relative ``data.path`` or ``features.text.vectors`` in it is relative to the
    file."""
    tree = read_toml(path)
    for *sections, key in (("data", "path"), ("features", "text", "vectors")):
        node: Any = tree
        for section in sections:
            node = node.get(section) if isinstance(node, dict) else None
        if isinstance(node, dict) and isinstance(node.get(key), str) and node[key] != "none":
            node[key] = os.path.normpath(path.parent / Path(node[key]).expanduser())
    return tree
