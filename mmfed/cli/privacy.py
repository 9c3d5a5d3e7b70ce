"""``mmfed privacy``: what noise a promise needs, before any data are touched."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmfed.cli import anonymise
from mmfed.cli.options import FormatOption, examples
from mmfed.cli.terminal import Format, emit, say
from mmfed.errors import ExitCode, MmfedError

if TYPE_CHECKING:
    from mmfed.privacy.advice import AnyPlan

app = typer.Typer(
    name="privacy", help="Plan a privacy promise, anonymise a table.", no_args_is_help=True, rich_markup_mode=None
)


@app.command(
    short_help="Noise for an epsilon, or the reverse.",
    epilog=examples(
        "mmfed privacy plan --population 100000 --cohort 1000 --rounds 500 --epsilon 4",
        "mmfed privacy plan --population 100000 --cohort 1000 --rounds 500 --noise-multiplier 0.7",
        "mmfed privacy plan --population 100000 --cohort 1000 --rounds 500 --epsilon 4 --clipping adaptive",
        "mmfed privacy plan --mode record --population 30 --cohort 10 --rounds 30 --epsilon 8",
        "mmfed privacy plan --mode user-ftrl --population 100000 --rounds 500 --separation 50 --epsilon 8",
        "mmfed privacy plan --mode user-local --population 100000 --cohort 1000 --rounds 500 --epsilon 8",
        "mmfed privacy plan --population 10000 --items 1700 --rounds 40 --epsilon 4",
        "mmfed privacy plan --mode user-local --population 1000000 --items 1700 --rounds 40 --epsilon 4",
        "mmfed privacy plan --mode user-distributed --population 1000 --rounds 20 --epsilon 8 --parameters 5000",
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
        Literal["user-central", "user-distributed", "user-local", "user-ftrl", "record"],
        typer.Option(help="Whose data one unit is.", show_default=False),
    ] = "user-central",
    clipping: Annotated[
        Literal["fixed", "adaptive"],
        typer.Option(help="User-central mode: adaptive divides the noise between the update and the quantile."),
    ] = "fixed",
    local_noise: Annotated[
        Literal["gaussian", "laplace"], typer.Option("--local-noise", help="User-local mode: the device's noise.")
    ] = "gaussian",
    participations: Annotated[
        int | None,
        typer.Option(
            help="User-local, user-ftrl: rounds one device may join; default: what 99.9 % of them stay below, or what "
            "the separation allows."
        ),
    ] = None,
    separation: Annotated[
        int, typer.Option(help="User-ftrl mode: rounds from one participation to the next (default 10).")
    ] = 10,
    bands: Annotated[
        int | None, typer.Option(help="User-ftrl mode: bands of the noise's factor; default: the separation.")
    ] = None,
    window: Annotated[
        int, typer.Option(help="Record mode: most interactions in a window (default 10).", show_default=False)
    ] = 10,
    parameters: Annotated[
        int | None,
        typer.Option(
            help="Trained coordinates; adds the signal-to-noise ratio of one release (user-distributed: needed)."
        ),
    ] = None,
    items: Annotated[
        int | None, typer.Option(help="Size of the catalogue; adds whether to spend epsilon once or over the rounds.")
    ] = None,
    history: Annotated[int, typer.Option(help="With --items: a guess of a typical person's events.")] = 10,
    minimum_survivors: Annotated[
        float,
        typer.Option(help="User-distributed: least share of the cohort in a sum (default 0.8).", show_default=False),
    ] = 0.8,
    output: FormatOption = Format.TEXT,
) -> None:
    """Compute the noise multiplier for an epsilon, or the epsilon of a noise multiplier (give exactly one).

    With --items it also recommends the one-shot release or iterative rounds, and says why.
    """
    from mmfed.privacy import distributed_planning, planning
    from mmfed.privacy.adaptive_clip import shared_noise
    from mmfed.privacy.advice import MODES, advise
    from mmfed.privacy.planning_banded import plan_banded
    from mmfed.privacy.planning_local import plan_local
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
    elif mode == "user-ftrl":
        found = plan_banded(
            population=population,
            cohort=cohort,
            rounds=rounds,
            separation=separation,
            participations=participations,
            bands=bands,
            delta=delta,
            epsilon=epsilon,
            noise_multiplier=noise_multiplier,
        )
    elif mode == "user-local":
        found = plan_local(
            population=population,
            cohort=cohort,
            rounds=rounds,
            law=local_noise,
            participations=participations,
            delta=delta,
            epsilon=epsilon,
            noise_multiplier=noise_multiplier,
        )
    elif mode == "user-distributed":
        if parameters is None:
            raise MmfedError(
                ExitCode.USAGE,
                "--mode user-distributed: rounding depends on how many coordinates are trained.",
                "add --parameters COUNT.",
            )
        found = distributed_planning.plan_distributed(
            population=population,
            cohort=cohort,
            rounds=rounds,
            parameters=parameters,
            minimum_survivors=minimum_survivors,
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
    advice = None
    if items is not None:
        if mode not in MODES or (mode == "user-local" and local_noise != "gaussian"):
            where = f"{mode} mode" if mode not in MODES else f"{mode} mode with {local_noise} noise"
            raise MmfedError(ExitCode.USAGE, f"--items: there is no one-shot release in {where}.", "leave it out.")
        advice = advise(
            population=population,
            items=items,
            epsilon=epsilon or round(found.epsilon, 3),
            delta=delta,
            history=history,
            mode=mode,
            minimum_survivors=minimum_survivors,
        )
    shares = found if isinstance(found, distributed_planning.DistributedPlan) else None
    whole_user = planning.user_epsilon_of_record_plan(found) if mode == "record" else None
    shared = None
    if clipping == "adaptive":
        if mode != "user-central":
            raise MmfedError(ExitCode.USAGE, f"--clipping adaptive: not in mode {mode}.", "use --mode user-central.")
        shared = shared_noise(found.noise_multiplier, planned_cohort=max(1, round(found.cohort)))
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
                "noise_of_update": None if shared is None else shared.update,
                "noise_of_quantile": None if shared is None else shared.bits,
                "advice": None if advice is None else asdict(advice),
                "minimum_cohort": None if shares is None else shares.noise.minimum,
                "modulus_bits": None if shares is None else shares.noise.bits,
                "upload_bytes": None if shares is None else shares.upload,
            }
        )
        return
    unit = "window" if mode == "record" else "user"
    sampled = (
        f"each {unit} joins with probability {found.sampling_rate:.4g}" if found.sampling != "full" else "everyone"
    )
    if shares is not None and shares.cohort < population:
        sampled = "the server sees who: no amplification is claimed"
    laplace = mode == "user-local" and local_noise == "laplace"
    scale = (
        "Laplace scale b of the noise, in clip norms" if laplace else "standard deviation of the noise, in clip norms"
    )
    say(f"noise multiplier  {found.noise_multiplier:.4f}   ({scale})")
    say(f"on the mean       {found.noise_on_mean:.4g}   clip norms on each coordinate of the mean update")
    if shared is not None:
        say(
            f"divided           {shared.update:.4f} on the update; {shared.bits:.4g} users, on the number of users "
            "within the clip norm"
        )
    if mode == "user-ftrl":
        say(f"participations    {found.releases} of one user at most, {found.cohort:g} users a round")
    elif mode == "user-local":
        say(f"releases          {found.releases} of one device at most, {found.cohort:g} users a round")
    else:
        say(f"releases          {found.releases}, {found.cohort:g} {unit}s in each ({sampled})")
    if shares is not None:
        say(f"survivors         {shares.noise.minimum} of {found.cohort:g} at least, or nothing is released")
        say(f"upload            {shares.upload:,} bytes a device and round, {shares.noise.bits} bits a coordinate")
    if ratio is not None:
        say(f"signal to noise   {ratio:.3g} at best, in one release of {parameters:,} coordinates")
    say(f"promise           {promise.sentence()}")
    if whole_user is not None:
        say(f"for a whole user  epsilon = {whole_user:.4g}: all windows of the device added or removed at once")
    say(f"not covered       {'; '.join(promise.not_covered)}")
    if advice is not None:
        say(f"recommended       {advice.way}")
        if advice.plan is not None:
            say(f"                  {_one_shot_noise(advice.plan)}")
        for reason in advice.reasons:
            say(f"                  {reason}")
        say(f"                  {' '.join(f'--set {setting}' for setting in advice.settings)}")


def _one_shot_noise(plan: AnyPlan) -> str:
    """What the release's own noise is, on vectors of norm 1."""
    from mmfed.privacy.one_shot import OneShotPlan

    if isinstance(plan, OneShotPlan):
        noises, where = {"popularity": plan.popularity_noise, "pairs": plan.cooccurrence_noise}, "on each sum"
    else:
        found = plan.noise_multipliers()
        noises = {"popularity": found["popularity"], "pairs": found.get("cooccurrence")}
        upload = getattr(plan, "upload", None)
        where = "added by every device" if upload is None else f"shared by all devices; upload {upload:,} bytes each"
    told = ", ".join(f"{noise:.4g} on {name}" for name, noise in noises.items() if noise is not None)
    return f"noise of the release: {told} (vectors of norm 1; {where})"


anonymise.add_to(app)
