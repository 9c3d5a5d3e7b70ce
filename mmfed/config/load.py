"""A configuration from TOML on disk and ``--set key=value``; what is wrong with one, by key."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from mmfed.config.tree import Config
from mmfed.errors import ExitCode, MmfedError
from mmfed.scenario_file import read_scenario


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read a scenario file and apply ``key=value`` overrides.

    Raises:
        MmfedError: unreadable file, bad TOML, unknown key (named with the nearest known one), wrong type or range.
    """
    tree = {} if path is None else read_scenario(path)
    for study in ("compare", "cold_start", "modalities"):
        tree.pop(study, None)
    return build_config(tree, overrides, where="configuration" if path is None else str(path))


def build_config(tree: Mapping[str, Any], overrides: Sequence[str] = (), *, where: str = "configuration") -> Config:
    """Validate a plain tree with ``key=value`` overrides on top.

    Raises:
        MmfedError: names the key, what is wrong with it and the nearest known key.
    """
    merged = json.loads(json.dumps(tree, default=str))
    for override in overrides:
        _apply_override(merged, override)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise _explain(error, where) from None


def known_keys(model: type[BaseModel] = Config, prefix: str = "") -> dict[str, Any]:
    """Every dotted key with its field info, in the order of the tree."""
    keys: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        section = info.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            keys.update(known_keys(section, f"{prefix}{name}."))
        else:
            keys[prefix + name] = info
    return keys


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise MmfedError(
            ExitCode.CONFIG, f"--set {override}: not of the form key=value.", "write e.g. --set federation.rounds=20."
        )
    try:
        value = tomllib.loads(f"v = {text.strip()}")["v"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    *sections, last = key.split(".")
    node = tree
    for section in sections:
        node = node.setdefault(section, {})
        if not isinstance(node, dict):
            raise MmfedError(
                ExitCode.CONFIG, f"--set {key}: {section} is a value, not a section.", f"use {_nearest(key)}."
            )
    node[last] = value


def _explain(error: ValidationError, where: str) -> MmfedError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    more = f" ({error.error_count() - 1} more after this one)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return MmfedError(ExitCode.CONFIG, f"{where}: unknown key {key}{more}.", f"did you mean {_nearest(key)}?")
    info = known_keys().get(key)
    about = f" ({info.description})" if info is not None and info.description else ""
    given = first.get("input")
    shown = f" = {given!r}" if not isinstance(given, dict) else ""
    says = first["msg"].removeprefix("Value error, ")
    if not key:  # keys that do not go together: the rule says what, then the mend
        wrong, _, mend = says.partition(": ")
        return MmfedError(ExitCode.CONFIG, f"{where}: {wrong}{more}.", f"{mend or 'change one of these keys'}.")
    return MmfedError(ExitCode.CONFIG, f"{where}: {key}{shown}: {says}{more}.", f"change {key}{about}.")


def _nearest(key: str) -> str:
    known = list(known_keys())
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.3)
    last = key.split(".")[-1]
    by_name = [k for k in known if k.split(".")[-1] == last] or close or known[:1]
    return by_name[0]
