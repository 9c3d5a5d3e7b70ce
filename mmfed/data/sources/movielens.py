"""MovieLens-100K (``u.data``, ``u.item``, ``u.user`` where it is asked for), with posters and overviews where they are.

Harper and Konstan 2015. Columns that count what the audience did later (vote average, vote count, popularity, revenue)
are left out on purpose: they would tell a model what the test rows hold.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from mmfed.data.people import People
from mmfed.data.schema import Action, Catalogue, Shop, Tags, group_by_user
from mmfed.data.sources.answers import answers
from mmfed.data.sources.encode import categorical, codes
from mmfed.errors import ExitCode, MmfedError
from mmfed.person_attributes import PersonAttribute

GENRES = (
    "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy", "Film-Noir",
    "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
_FIRST_GENRE = 6  # fields of u.item: id, title, release date, video date, url, "unknown", then the 18 genres


PERSON = ("age", "gender", "occupation", "region")  # the region is the first digit of the US zip code


def load_movielens(folder: Path, people: tuple[PersonAttribute, ...] = ()) -> Shop:
    """The 100,000 ratings as implicit feedback (every rating is an interaction, its stars are the value).

    Ties in time keep the order of ``u.data``. All items of ``u.item`` are in the catalogue; those without poster or
    overview have None there.

    Args:
        people: what is read of ``u.user``, of ``PERSON``; nothing leaves it unread.

    Raises:
        MmfedError: a file is missing or not in the format of MovieLens-100K.
    """
    ratings = _read(folder / "u.data", "\t", 4)
    items = _read(folder / "u.item", "|", _FIRST_GENRE + len(GENRES))
    notes: list[str] = []
    catalogue = _catalogue(folder, items, notes)
    known = pl.Series(catalogue.item_ids)
    numbers = ratings.select(
        pl.col("field_0").cast(pl.Int64, strict=False).alias("user"),
        pl.Series("item", codes(ratings["field_1"], known)).replace(-1, None),
        pl.col("field_2").cast(pl.Float32, strict=False).alias("value"),
        pl.col("field_3").cast(pl.Int64, strict=False).alias("time"),
    )
    broken = numbers.select(pl.any_horizontal(pl.all().is_null()).arg_true()).to_series()
    if len(broken):
        raise _fault(folder / "u.data", f"row {broken[0] + 1} is not 'user item rating time' with an item of u.item")
    user_ids, users = np.unique(numbers["user"].to_numpy(), return_inverse=True)
    interactions = group_by_user(
        user_ids=[str(user) for user in user_ids],
        users=users,
        items=numbers["item"].to_numpy(),
        times=numbers["time"].to_numpy(),
        actions=np.full(len(numbers), Action.RATE),
        values=numbers["value"].to_numpy(),
        item_count=catalogue.size,
    )
    asked = movielens_people(folder, people) if people else None
    return Shop(folder.name, catalogue, interactions, notes=tuple(notes), people=asked)


def movielens_people(folder: Path, attributes: tuple[PersonAttribute, ...]) -> People:
    """The answers in ``u.user``.

    Raises:
        MmfedError: the file is missing or not in the format, or says nothing about an attribute.
    """
    for one in attributes:
        if one.name not in PERSON:
            what = f"data.people.{one.name}: MovieLens-100K does not say."
            raise MmfedError(ExitCode.CONFIG, what, f"take some of {', '.join(PERSON)}.")
    users = movielens_users(folder)
    values = np.stack([answers(users[one.name], one) for one in attributes], axis=1)
    return People(users["user"].to_list(), attributes, values)


def movielens_users(folder: Path) -> pl.DataFrame:
    """``u.user`` as strings: ``user`` and the columns of ``PERSON``.

    Raises:
        MmfedError: the file is missing or not in the format.
    """
    rows = _read(folder / "u.user", "|", 5).rename(lambda name: ("user", *PERSON)[int(name.removeprefix("field_"))])
    return rows.with_columns(pl.col("region").str.slice(0, 1))


def _catalogue(folder: Path, items: pl.DataFrame, notes: list[str]) -> Catalogue:
    ids = items["field_0"]
    if ids.n_unique() < len(ids):
        raise _fault(folder / "u.item", f"item {ids.filter(ids.is_duplicated())[0]} stands there twice")
    year = items.select(
        pl.coalesce(
            pl.col("field_2").str.extract(r"(\d{4})$"), pl.col("field_1").str.extract(r"\((\d{4})\)\s*$")
        ).cast(pl.Float32)
    ).to_series()  # fmt: skip
    details = _details(folder / "items.csv", ids, notes)
    images = tuple(path if path.is_file() else None for path in (folder / "posters" / f"{item}.jpg" for item in ids))
    missing = sum(image is None for image in images)
    notes.append(f"{missing} of {len(ids)} items have no poster, {details['overview'].null_count()} have no overview")
    genres = items.select(pl.nth(range(_FIRST_GENRE, _FIRST_GENRE + len(GENRES))) == "1").to_numpy()
    return Catalogue(
        item_ids=tuple(ids),
        titles=tuple(items["field_1"]),
        texts=tuple(details["overview"]),
        images=images,
        prices=np.full(len(ids), np.nan, dtype=np.float32),
        category=Tags(matrix=genres, names=GENRES),
        categorical={
            "decade": categorical((year // 10 * 10).cast(pl.Int32).cast(pl.String) + "s"),
            "language": categorical(details["original_language"]),
        },
        numeric={
            "year": year.fill_null(float("nan")).to_numpy().copy(),
            "runtime": details["runtime"].fill_null(float("nan")).to_numpy().copy(),
        },
    )


def _details(path: Path, ids: pl.Series, notes: list[str]) -> pl.DataFrame:
    """Overview, language and runtime of each item in the order of ``ids``; the first of repeated rows counts."""
    wanted = ["overview", "original_language", "runtime"]
    if not path.is_file():
        notes.append("items.csv is absent: no overviews")
        return (
            pl.DataFrame({"movie_id": ids})
            .with_columns(pl.lit(None, pl.String).alias(name) for name in wanted)
            .with_columns(pl.col("runtime").cast(pl.Float32))
        )
    try:
        table = pl.read_csv(path, infer_schema=False, columns=["movie_id", *wanted])
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _fault(path, f"cannot be read ({str(error).splitlines()[0]})") from None
    table = table.with_columns(pl.col("movie_id").cast(pl.Float64, strict=False).cast(pl.Int64).cast(pl.String))
    unique = table.unique("movie_id", keep="first", maintain_order=True)
    if len(unique) < len(table):
        notes.append(f"items.csv: {len(table) - len(unique)} repeated rows left out (the first one counts)")
    joined = pl.DataFrame({"movie_id": ids}).join(unique, on="movie_id", how="left", maintain_order="left")
    minutes = pl.col("runtime").cast(pl.Float32, strict=False).fill_nan(None)
    return joined.with_columns(
        pl.col("overview").str.strip_chars().replace(["", "nan"], None),
        pl.col("original_language").replace(["", "nan"], None),
        pl.when(minutes > 0).then(minutes).alias("runtime"),
    )


def _read(path: Path, separator: str, fields: int) -> pl.DataFrame:
    """A headerless file as strings, columns ``field_0`` …; u.item is Latin-1 in the original release."""
    try:
        text = path.read_bytes().decode("latin-1")
    except OSError as error:
        raise _fault(path, f"cannot be read ({error.strerror})") from None
    lines = pl.DataFrame({"line": text.splitlines()}, schema={"line": pl.String})
    split = lines.select(pl.col("line").str.split(separator))
    wrong = split.select((pl.col("line").list.len() != fields).arg_true()).to_series()
    if len(split) == 0 or len(wrong):
        where = f"row {wrong[0] + 1} does not have {fields} fields" if len(wrong) else "the file is empty"
        raise _fault(path, where)
    return split.select(pl.col("line").list.get(i).alias(f"field_{i}") for i in range(fields))


def _fault(path: Path, what: str) -> MmfedError:
    return MmfedError(
        ExitCode.DATA, f"{path}: {what}.", "point data.path at an unpacked MovieLens-100K folder (u.data, u.item)."
    )
