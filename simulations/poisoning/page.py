"""The outcomes as one page of tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulations.poisoning.attacks import KINDS, Attack
from simulations.poisoning.study import Outcome, Plan

ABOUT = """# What hostile devices achieve, and what defences cost

MovieLens-100K, 943 honest users; the hostile devices come on top (share of the honest users). Each run pushes one item
that three to ten people have in training. **shown**: share of honest people without the item whose first ten
recommendations hold it. **rank**: its median rank for these people. **recall@10**: of honest people's last
interaction, full ranking. Where several targets were pushed (one per seed), means, with the smallest and the largest in
brackets; else one. What the attacks and defences are, and what is not defended: [the guide](../poisoning.md).

The runs are short (small model, 60 of the users per round), so that all of them take twelve minutes of one core;
recall is below what longer runs reach ([ml100k.md](ml100k.md)), and most of all under noise. Bounds were set once, on
runs with the first target. Attackers know the norm bound and the clip norm, and forge updates of just that length: none
is refused. No attack is shaped to the row bound, the median or the trimmed mean. Where nothing is bounded, forgers send
updates that weigh, together, as much as one honest device in twenty; longer ones were tried and wreck the model instead
of promoting the item.

Written by `python -m simulations.poisoning`; the settings stand in `simulations/poisoning_*.toml`.
"""


def page(found: Sequence[tuple[Plan, Sequence[Outcome]]]) -> str:
    """The whole page as Markdown."""
    lines = [ABOUT]
    for plan, outcomes in found:
        watched = any(method.config.defence.alarm_rise is not None for method in plan.methods)
        lines += [f"## {plan.title}", ""]
        for method in plan.methods:
            mine = [one for one in outcomes if one.method == method.name]
            spent = max((one.epsilon for one in mine if one.epsilon is not None), default=None)
            promise = "" if spent is None else f" (charged: {spent:.2f})"
            targets = len(method.seeds)
            lines += [f"### {method.name}{promise}", "", f"{targets} target{'s' if targets > 1 else ''}.", ""]
            rounds = method.config.federation.rounds > 0
            lines += [*table(mine, (None, *method.attacks), rounds=rounds, watched=watched), ""]
    return "\n".join(lines).rstrip() + "\n"


def table(outcomes: Sequence[Outcome], attacks: Sequence[Attack | None], *, rounds: bool, watched: bool) -> list[str]:
    """A row for each attack; columns for refused updates where there are rounds, and for the alarm where it was on."""
    head = ["attack", "devices", "shown", "rank", "recall@10", *(["refused updates a run"] if rounds else [])]
    head += ["alarm, runs", "false alarms, items a run"] if watched else []
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for attack in attacks:
        runs = [one for one in outcomes if one.attack == attack]
        if not runs:
            continue
        cells = [
            "no attack" if attack is None else f"{KINDS[attack.kind]}, {attack.share:.1%}",
            str(runs[0].devices),
            spread([one.shown for one in runs], "{:.1%}"),
            spread([one.rank for one in runs], "{:.0f}"),
            spread([one.recall for one in runs], "{:.3f}"),
        ]
        if rounds:
            cells.append(f"{np.mean([one.refused for one in runs]):.0f}")
        if watched:
            rang = sum(one.alarm is not None for one in runs)
            cells += [f"{rang} of {len(runs)}", f"{np.mean([one.false_alarms for one in runs]):.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def spread(values: Sequence[float], form: str) -> str:
    """The mean, and the smallest and largest of several."""
    mean = form.format(float(np.mean(values)))
    return mean if len(values) == 1 else f"{mean} [{form.format(min(values))}, {form.format(max(values))}]"
