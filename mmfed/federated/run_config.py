"""Flower's run config, which holds scalars only, as our configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mmfed.config import Config, load_config
from mmfed.errors import ExitCode, MmfedError

KEYS = ("config", "scenario", "overrides", "resume")


def read_run_config(run_config: Mapping[str, Any]) -> tuple[Config, bool]:
    """The configuration of a run, and whether to go on from its last checkpoint.

    Either ``config``, the whole tree as JSON (``Config.to_flat``), or ``scenario``, the path of a TOML file on the
    coordinator host ("" takes the defaults), with ``overrides``: ``key=value`` separated by ``;`` or new lines.

    Raises:
        MmfedError: an unknown key, both ways at once, or anything wrong with the scenario.
    """
    unknown = sorted(set(run_config) - set(KEYS))
    if unknown:
        raise MmfedError(
            ExitCode.CONFIG,
            f"run config: unknown key {', '.join(unknown)}.",
            f"use {', '.join(KEYS)}; settings of the run go into overrides, e.g. overrides='federation.rounds=20'.",
        )
    resume = run_config.get("resume", False)
    if not isinstance(resume, bool):
        raise MmfedError(ExitCode.CONFIG, f"run config: resume = {resume!r} is not a boolean.", "set true or false.")
    whole, scenario, overrides = (str(run_config.get(key, "")).strip() for key in KEYS[:3])
    if not whole:
        lines = [part.strip() for part in overrides.replace(";", "\n").splitlines()]
        path = Path(scenario).expanduser() if scenario else None
        return load_config(path, [line for line in lines if line]), resume
    if scenario or overrides:
        raise MmfedError(
            ExitCode.CONFIG, "run config: config is given besides scenario or overrides.", "give one or the other."
        )
    try:
        return Config.model_validate_json(whole), resume
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "config"
        raise MmfedError(
            ExitCode.CONFIG, f"run config: {where}: {first['msg']}.", "give the JSON that Config.to_flat() writes."
        ) from None
