"""What a run folder says, read so that a killed, running or older run still gives what it has."""

from __future__ import annotations

import json
import math
import statistics
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmfed.errors import ExitCode, MmfedError
from mmfed.records import RunFolder, read_lines
from mmfed.reports.tables import number
from mmfed.simulation.run import device_ledgers

MOST_DEVICES = 2000  # device ledgers read for the chart; of more, an even sample


@dataclass(frozen=True)
class EpsilonCurve:
    """ε against rounds.

    Attributes:
        name: whose ε.
        points: (round, ε).
    """

    name: str
    points: list[tuple[float, float]]


@dataclass(frozen=True)
class RunFacts:
    """Everything the report shows, as plain data.

    Attributes:
        name: of the run.
        config: the configuration tree, {} where unreadable.
        config_text: ``config.toml`` as written, "" where missing.
        environment: versions and machine.
        rounds: the lines of ``metrics.jsonl``.
        results: ``results.json``, {} before the evaluation.
        recommendations: sample lists.
        header: the first ledger's header, {} where there is none.
        curves: ε against rounds.
        charged: the largest ε in the ledgers that were read, None without a release.
        devices: number of device ledgers.
        refusals: rounds refused for lack of budget, over all ledgers that were read.
        problems: what could not be read, one line each.
    """

    name: str
    config: Mapping[str, Any]
    config_text: str
    environment: Mapping[str, Any]
    rounds: list[Mapping[str, Any]]
    results: Mapping[str, Any]
    recommendations: list[Mapping[str, Any]]
    header: Mapping[str, Any]
    curves: list[EpsilonCurve]
    charged: float | None
    devices: int
    refusals: int
    problems: list[str]

    def setting(self, key: str) -> Any:
        """A dotted key of the configuration; None where it is missing or written as "none"."""
        node: Any = self.config
        for part in key.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        return None if node == "none" else node

    @property
    def mode(self) -> str:
        """The privacy mode; "" where neither results nor configuration tell it."""
        stated = mapping(self.results.get("privacy")).get("mode")
        configured = node.get("mode") if isinstance(node := self.config.get("privacy"), Mapping) else None
        return str(stated or configured or "")

    @property
    def methods(self) -> list[Mapping[str, Any]]:
        """The methods of the results, whatever else stands there left out."""
        return mappings(self.results.get("methods"))


def read_run(run: RunFolder) -> RunFacts:
    """Read a run folder; missing parts stay empty, damaged ones are named in ``problems``.

    Raises:
        MmfedError: there is no such folder, or nothing of a run in it.
    """
    if not run.path.is_dir():
        raise MmfedError(ExitCode.STORAGE, f"{run.path}: no such run folder.", "name the folder of a run.")
    if not any(one.exists() for one in (run.config, run.metrics, run.results, run.ledger)):
        raise MmfedError(
            ExitCode.STORAGE, f"{run.path}: holds no run.", "name a folder that mmfed simulate or a coordinator wrote."
        )
    problems: list[str] = []
    config_text = _text(run.config, problems)
    ledgers = _Ledgers.read(run, problems)
    recommendations = _json(run.recommendations, problems)
    return RunFacts(
        name=run.path.resolve().name,
        config=_toml(config_text, run.config, problems),
        config_text=config_text,
        environment=mapping(_json(run.environment, problems)),
        rounds=_lines(run.metrics, problems),
        results=mapping(_json(run.results, problems)),
        recommendations=mappings(recommendations),
        header=ledgers.header,
        curves=ledgers.curves,
        charged=ledgers.charged,
        devices=ledgers.devices,
        refusals=ledgers.refusals,
        problems=problems,
    )


def mapping(value: Any) -> Mapping[str, Any]:
    """The value where it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """The mappings in a list; anything else is left out."""
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def strings(value: Any) -> list[str]:
    """The members of a list as text."""
    return [str(one) for one in value] if isinstance(value, (list, tuple)) else []


@dataclass(frozen=True)
class _Ledgers:
    header: Mapping[str, Any]
    curves: list[EpsilonCurve]
    charged: float | None
    devices: int
    refusals: int

    @classmethod
    def read(cls, run: RunFolder, problems: list[str]) -> _Ledgers:
        paths = device_ledgers(run)
        lines = _lines(run.ledger, problems)
        if lines or not paths:
            points = _charges(lines)
            curves = [EpsilonCurve("spent", points)] if points else []
            return cls(_header(lines), curves, _largest(points), len(paths), _refusals(lines))
        read = paths
        if len(paths) > MOST_DEVICES:
            read = [paths[index * len(paths) // MOST_DEVICES] for index in range(MOST_DEVICES)]
            problems.append(f"the device curves show an even sample of {MOST_DEVICES} of {len(paths)} device ledgers")
        header: Mapping[str, Any] = {}
        devices: list[list[tuple[float, float]]] = []
        refusals = 0
        for path in read:
            lines = _lines(path, problems)
            header = header or _header(lines)
            refusals += _refusals(lines)
            devices.append(_charges(lines))
        curves = device_curves(devices)
        charged = _largest([point for device in devices for point in device])
        return cls(header, curves, charged, len(paths), refusals)


def device_curves(devices: list[list[tuple[float, float]]]) -> list[EpsilonCurve]:
    """Worst and median device after every round; a device that has not charged yet stands at 0."""
    rounds = sorted({number for device in devices for number, _ in device})
    if not rounds:
        return []
    spent = [0.0] * len(devices)
    by_round: dict[float, list[tuple[int, float]]] = {}
    for index, device in enumerate(devices):
        for number_, value in device:
            by_round.setdefault(number_, []).append((index, value))
    worst, median = [], []
    for number_ in rounds:
        for index, value in by_round[number_]:
            spent[index] = max(spent[index], value)
        worst.append((number_, max(spent)))
        median.append((number_, statistics.median(spent)))
    return [EpsilonCurve("worst device", worst), EpsilonCurve("median device", median)]


def _charges(lines: list[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """(round, ε) of every release, ascending by round; the largest where a round has several."""
    found: dict[float, float] = {}
    for line in lines:
        body = mapping(line.get("body"))
        round_, spent = number(body.get("round")), number(body.get("epsilon"))
        if line.get("kind") == "release" and round_ is not None and spent is not None:
            found[round_] = max(spent, found.get(round_, 0.0))
    return sorted(found.items())


def _header(lines: list[Mapping[str, Any]]) -> Mapping[str, Any]:
    return mapping(lines[0].get("body")) if lines and lines[0].get("kind") == "header" else {}


def _refusals(lines: list[Mapping[str, Any]]) -> int:
    return sum(line.get("kind") == "refusal" for line in lines)


def _largest(points: list[tuple[float, float]]) -> float | None:
    values = [value for _, value in points if math.isfinite(value)]
    return max(values) if values else None


def _lines(path: Path, problems: list[str]) -> list[Mapping[str, Any]]:
    try:
        return [line for line in read_lines(path) if isinstance(line, Mapping)]
    except (MmfedError, OSError, RecursionError) as error:
        problems.append(error.message if isinstance(error, MmfedError) else f"{path.name}: cannot be read")
        return []


def _text(path: Path, problems: list[str]) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError):
        problems.append(f"{path.name}: cannot be read")
        return ""


def _json(path: Path, problems: list[str]) -> Any:
    text = _text(path, problems)
    if not text:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        problems.append(f"{path.name}: not valid JSON")
        return None


def _toml(text: str, path: Path, problems: list[str]) -> Mapping[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        problems.append(f"{path.name}: not valid TOML")
        return {}
