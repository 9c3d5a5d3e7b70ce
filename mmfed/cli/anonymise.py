"""``mmfed privacy anonymise``: tables of people made fit for export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmfed.cli.options import FormatOption, examples
from mmfed.cli.terminal import Format, emit, say
from mmfed.errors import ExitCode, MmfedError

if TYPE_CHECKING:
    import polars as pl

    from mmfed.privacy.hierarchies import Hierarchy


def anonymise(
    table: Annotated[Path, typer.Argument(metavar="TABLE", show_default=False)],
    quasi: Annotated[str, typer.Option(help="Columns that others may know of a person, separated by commas.")],
    sensitive: Annotated[str, typer.Option(help="The column to protect. Numbers count as ordered.")],
    k: Annotated[int, typer.Option("-k", help="Least people in a class.", show_default=False)],
    distinct_l: Annotated[int, typer.Option("--distinct-l", help="Least distinct sensitive values in a class.")] = 1,
    entropy_l: Annotated[float, typer.Option("--entropy-l", help="Least exp(entropy) of a class.")] = 1.0,
    t: Annotated[float, typer.Option("-t", help="Largest earth mover's distance to the whole table.")] = 1.0,
    bins: Annotated[
        list[str] | None,
        typer.Option("--bins", metavar="COLUMN=WIDTHS", help="Nested bin widths of a number; repeatable."),
    ] = None,
    max_suppressed: Annotated[float, typer.Option("--max-suppressed", help="Largest share of people left out.")] = 0.0,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE", help="Write the table here (CSV or Parquet); must not exist.")
    ] = None,
    output: FormatOption = Format.TEXT,
) -> None:
    """Generalise TABLE (CSV or Parquet, one row a person) until its classes meet k-anonymity and what else is asked.

    Columns without --bins stay exact or become "*". Only the columns named are written. This is no differential
    privacy, and says nothing about model updates (docs/anonymity.md).
    """
    from mmfed.privacy import generalisation
    from mmfed.privacy.hierarchies import Parents
    from mmfed.records import atomic_file

    if to is not None and to.exists():
        raise MmfedError(ExitCode.STORAGE, f"{to}: exists already.", "name a new file.")
    widths = _bins(bins or [])
    names = [name.strip() for name in quasi.split(",")]
    if unknown := sorted(set(widths) - set(names)):
        raise MmfedError(ExitCode.USAGE, f"--bins {unknown[0]}: not among --quasi.", f"use one of {', '.join(names)}.")
    hierarchies: dict[str, Hierarchy] = {name: widths.get(name, Parents()) for name in names}
    found = generalisation.anonymise(
        _read_people(table),
        hierarchies,
        sensitive=sensitive,
        k=k,
        distinct_l=distinct_l,
        entropy_l=entropy_l,
        t=t,
        max_suppressed=max_suppressed,
    )
    if to is not None:
        with atomic_file(to) as file:
            found.table.write_parquet(file) if to.suffix == ".parquet" else found.table.write_csv(file)
    report = found.report
    if output is Format.JSON:
        emit(
            {
                "people": report.people,
                "suppressed": found.suppressed,
                "levels": found.levels,
                "loss": found.loss,
                "k": report.k,
                "distinct_l": report.distinct_l,
                "entropy_l": report.entropy_l,
                "t": report.t,
                "classes": len(report.sizes),
                "sentence": report.sentence(),
                "written": None if to is None else str(to),
            }
        )
        return
    say(report.sentence())
    levels = ", ".join(f"{name} {level}" for name, level in found.levels.items())
    say(f"levels {levels} (0 is exact); {found.suppressed} people left out; information loss {found.loss:.3f} of 1.")
    say("Not written: give --to FILE." if to is None else f"Written: {to}")


def _bins(given: list[str]) -> dict[str, Hierarchy]:
    from mmfed.privacy.hierarchies import Bins

    found: dict[str, Hierarchy] = {}
    for one in given:
        name, _, widths = one.partition("=")
        try:
            found[name] = Bins(tuple(float(width) for width in widths.split(",")))
        except ValueError:
            raise MmfedError(ExitCode.USAGE, f"--bins {one}: not COLUMN=WIDTHS.", "write age=5,10,20.") from None
    return found


def _read_people(path: Path) -> pl.DataFrame:
    import polars as pl

    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path)
        return pl.read_csv(path, infer_schema_length=None)
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).splitlines()[0]
        raise MmfedError(ExitCode.DATA, f"{path}: {reason}.", "give a CSV or Parquet file with a header.") from error


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(
        short_help="Make a table of people fit for export.",
        epilog=examples(
            "mmfed privacy anonymise people.csv --quasi age,region --sensitive segment -k 5 --bins age=5,10,20",
            "mmfed privacy anonymise people.csv --quasi age,region --sensitive segment -k 5 --distinct-l 3 "
            "--to safe.csv",
        ),
    )(anonymise)
