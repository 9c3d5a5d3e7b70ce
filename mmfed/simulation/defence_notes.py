"""What the defences of a run did, for its results and report."""

from __future__ import annotations

from mmfed.config import Config, DefenceSection
from mmfed.records import RunFolder, read_lines


def defence_notes(run: RunFolder, config: Config) -> list[str]:
    """One line for each exposure alarm, and one for scaled rows and refused replies; none without a defence."""
    if config.defence == DefenceSection():
        return []
    rounds = read_lines(run.metrics)
    notes = [
        f"exposure alarm, round {one['round']}: item {alarm['item']} is in {alarm['share']:.0%} of the lists of "
        f"made-up shoppers, after {alarm['before']:.0%} in one of the {config.defence.alarm_rounds} rounds before"
        for one in rounds
        for alarm in one.get("alarms", ())
    ]
    if config.defence.alarm_rise is not None and not notes:
        notes.append(f"exposure alarm: none in {len(rounds)} rounds")
    if config.defence.row_bound is not None:
        scaled = sum(one.get("scaled_rows", 0) for one in rounds)
        notes.append(f"defence: {scaled} rows of an item were beyond defence.row_bound and scaled down")
    if config.defence.norm_bound is not None or config.defence.single_updates:
        notes.append(f"defence: {sum(one['refused_nodes'] for one in rounds)} updates were errors or refused")
    return notes
