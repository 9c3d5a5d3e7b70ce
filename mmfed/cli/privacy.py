"""``mmfed privacy``: what noise a promise needs, before any data are touched."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from mmfed.cli.options import FormatOption, examples
from mmfed.cli.terminal import Format, emit, say

app = typer.Typer(name="privacy", help="Plan a privacy promise.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Plan a privacy promise."""


@app.command(
    short_help="Noise for an epsilon, or the reverse.",
    epilog=examples(
        "mmfed privacy plan --population 100000 --cohort 1000 --rounds 500 --epsilon 4",
        "mmfed privacy plan --population 100000 --cohort 1000 --rounds 500 --noise-multiplier 0.7",
        "mmfed privacy plan --mode record --population 30 --cohort 10 --rounds 30 --epsilon 8",
    ),
)
def plan(
    population: Annotated[int, typer.Option(help="Enrolled users, N (record mode: windows on one device).")],
    rounds: Annotated[int, typer.Option(help="Noisy releases (record mode: DP-SGD steps over all rounds).")],
    cohort: Annotated[
        int | None, typer.Option(help="Planned users a round (record mode: expected windows a step); default: all.")
    ] = None,
    epsilon: Annotated[float | None, typer.Option(help="Target; gives the noise.")] = None,
    noise_multiplier: Annotated[
        float | None, typer.Option("--noise-multiplier", help="Noise relative to the clip norm; gives epsilon.")
    ] = None,
    delta: Annotated[float | None, typer.Option(help="Default: N ** -1.1.")] = None,
    mode: Annotated[
        Literal["user-central", "record"], typer.Option(help="Whose data one unit is.", show_default=False)
    ] = "user-central",
    window: Annotated[
        int, typer.Option(help="Record mode: most interactions in a window (default 10).", show_default=False)
    ] = 10,
    parameters: Annotated[
        int | None, typer.Option(help="Trained coordinates; adds the signal-to-noise ratio of one release.")
    ] = None,
    output: FormatOption = Format.TEXT,
) -> None:
    """Compute the noise multiplier for an epsilon, or the epsilon of a noise multiplier (give exactly one)."""
    from mmfed.privacy import planning
    from mmfed.privacy.units import check_count, check_population, guarantee_for

    if mode == "record":
        check_population(population, name="windows (--population)")
        planned = population if cohort is None else check_count("cohort", cohort)
        found = planning.plan_record(
            windows=population,
            sampling_rate=min(1.0, planned / population),
            steps=rounds,
            delta=delta,
            epsilon=epsilon,
            noise_multiplier=noise_multiplier,
        )
    else:
        found = planning.plan(
            population=population,
            cohort=cohort,
            rounds=rounds,
            delta=delta,
            epsilon=epsilon,
            noise_multiplier=noise_multiplier,
        )
    promise = guarantee_for(
        mode, epsilon=found.epsilon, population=population, delta=delta, window=window if mode == "record" else None
    )
    whole_user = planning.user_epsilon_of_record_plan(found) if mode == "record" else None
    ratio = None if parameters is None else found.signal_to_noise(parameters)
    if output is Format.JSON:
        emit(
            {
                "mode": mode,
                "population": population,
                "cohort": found.cohort,
                "releases": found.releases,
                "sampling": found.sampling,
                "sampling_rate": found.sampling_rate,
                "noise_multiplier": found.noise_multiplier,
                "noise_on_mean": found.noise_on_mean,
                "epsilon": found.epsilon,
                "delta": found.delta,
                "unit": promise.unit,
                "adjacency": promise.adjacency,
                "trust": promise.trust,
                "covered": promise.covered,
                "not_covered": promise.not_covered,
                "epsilon_of_a_whole_user": whole_user,
                "signal_to_noise": ratio,
            }
        )
        return
    unit = "user" if mode == "user-central" else "window"
    sampled = (
        f"each {unit} joins with probability {found.sampling_rate:.4g}" if found.sampling != "full" else "everyone"
    )
    say(f"noise multiplier  {found.noise_multiplier:.4f}   (standard deviation of the noise, in clip norms)")
    say(f"on the mean       {found.noise_on_mean:.4g}   clip norms on each coordinate of the mean update")
    say(f"releases          {found.releases}, {found.cohort:g} {unit}s in each ({sampled})")
    if ratio is not None:
        say(f"signal to noise   {ratio:.3g} at best, in one release of {parameters:,} coordinates")
    say(f"promise           {promise.sentence()}")
    if whole_user is not None:
        say(f"for a whole user  epsilon = {whole_user:.4g}: all windows of the device added or removed at once")
    say(f"not covered       {'; '.join(promise.not_covered)}")
