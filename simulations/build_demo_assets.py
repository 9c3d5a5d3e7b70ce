"""Rebuild the demo shop's bundled files (pictures, ``items.csv``, licences) from the two source folders.

    python simulations/build_demo_assets.py CLOTHING_FOLDER GROCERY_FOLDER [TARGET]

CLOTHING_FOLDER holds the clothing-dataset of Alexey Grigorev (CC0): ``images.csv`` (image, sender_id, label, kids) and
``images/<image>.jpg``. GROCERY_FOLDER holds photos of the GroceryStoreDataset of Marcus Klasson (MIT): ``images.csv``
(image, product, group, department), ``images/<image>`` and ``LICENSE``. Pictures and class names come from there, the
colour is computed from the picture, and titles, texts, prices and every other attribute are written here by seeded
templates (``demo_words.py``). The same sources and the same Pillow give the same bytes.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import demo_words as words
import numpy as np
from PIL import Image, ImageOps

from mmfed.rng import numpy_generator

PICTURE_SIDE = 160
JPEG_QUALITY = 78
PER_CLOTHING_CLASS = 19
PER_GROCERY_PRODUCT = 2
COLUMNS = (
    *("item", "title", "text", "price", "category", "store", "image"),
    *("department", "colour", "style", "season", "price_band", "kids", "grams"),
)
TARGET = Path(__file__).resolve().parents[1] / "mmfed" / "data" / "assets"
UNSUITABLE = {"e4bee2e0-0ccb-4a3a-af3b-5d02a6456e92"}  # a cap with a swear word
PALETTE = {
    "black": [(18, 18, 20), (38, 38, 42)],
    "white": [(245, 245, 245), (220, 220, 218)],
    "grey": [(128, 128, 130), (90, 92, 95), (170, 170, 170)],
    "beige": [(214, 196, 168), (190, 170, 140)],
    "brown": [(96, 62, 40), (130, 88, 56), (70, 48, 36)],
    "red": [(190, 30, 36), (140, 22, 34), (220, 60, 50)],
    "pink": [(236, 130, 160), (226, 70, 130), (240, 185, 195)],
    "orange": [(236, 130, 40), (220, 110, 60)],
    "yellow": [(240, 210, 70), (220, 190, 50), (245, 230, 150)],
    "green": [(60, 130, 60), (130, 165, 60), (50, 80, 50), (150, 190, 150)],
    "turquoise": [(50, 160, 160), (120, 200, 200)],
    "blue": [(50, 90, 190), (80, 120, 170), (140, 175, 215)],
    "navy": [(28, 34, 66), (40, 50, 84)],
    "purple": [(100, 50, 130), (150, 110, 180), (80, 30, 70)],
}


def build(clothing: Path, grocery: Path, target: Path) -> int:
    """Write the whole folder anew and return the number of items."""
    rows = [*_clothing_rows(clothing), *_grocery_rows(grocery)]
    if target.exists():
        shutil.rmtree(target)
    (target / "media").mkdir(parents=True)
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        picture: Image.Image = row.pop("picture")
        picture.save(target / "media" / row["image"], "JPEG", quality=JPEG_QUALITY, optimize=True)
        writer.writerow(row)
    (target / "items.csv").write_text(table.getvalue(), encoding="utf-8")
    shutil.copyfile(clothing / "LICENSE", target / "LICENSE.clothing")
    shutil.copyfile(grocery / "LICENSE", target / "LICENSE.grocery")
    (target / "NOTICE").write_text(NOTICE, encoding="utf-8")
    return len(rows)


def dominant_colour(picture: Image.Image, *, fills_frame: bool) -> str:
    """The colour name of the article in a picture.

    Every pixel takes the nearest palette name in CIE L*a*b*. A garment lies on some floor or blanket, so the colours of
    the picture's rim count against it; produce fills the frame, so only the middle is read.
    """
    side = 64
    lab = np.asarray(picture.convert("RGB").resize((side, side)), dtype=np.float64)
    names = list(PALETTE)
    anchors = np.array([rgb for name in names for rgb in PALETTE[name]], dtype=np.float64)
    owner = np.array([index for index, name in enumerate(names) for _ in PALETTE[name]])
    distance = ((_to_lab(lab)[:, :, None, :] - _to_lab(anchors)[None, None]) ** 2).sum(-1)
    named = owner[distance.argmin(-1)]
    row, column = np.mgrid[0:side, 0:side] / (side - 1) * 2 - 1
    middle = (row / 0.6) ** 2 + (column / 0.5) ** 2 <= 1
    rim = np.maximum(abs(row), abs(column)) > 0.84
    inside = np.bincount(named[middle], minlength=len(names)) / middle.sum()
    outside = np.bincount(named[rim], minlength=len(names)) / rim.sum()
    return names[int(np.argmax(inside if fills_frame else inside - 0.8 * outside))]


def _to_lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB 0..255 -> CIE L*a*b* (D65)."""
    linear = np.where(rgb / 255 <= 0.04045, rgb / 255 / 12.92, ((rgb / 255 + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def _clothing_rows(folder: Path) -> list[dict[str, Any]]:
    by_class: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in _read(folder / "images.csv"):
        # Labels beyond the garments are "Not sure", "Other", "Skip" and stray header rows.
        if row["label"] in words.GARMENTS and row["image"] not in UNSUITABLE:
            by_class[row["label"]].append(row)
    chosen = [
        row
        for label in sorted(by_class)
        for row in sorted(by_class[label], key=lambda r: _shuffled(r["image"]))[:PER_CLOTHING_CLASS]
    ]
    return [_garment(folder, row, number) for number, row in enumerate(chosen, start=1)]


def _garment(folder: Path, row: Mapping[str, str], number: int) -> dict[str, Any]:
    rng = numpy_generator(0, "demo-assets", row["image"])
    picture = _picture(folder / "images" / f"{row['image']}.jpg")
    kind, colour = words.GARMENTS[row["label"]], dominant_colour(picture, fills_frame=False)
    kids = row["kids"].lower() == "true" or row["label"] == "Body"
    styles = {**kind.styles, "playful": kind.styles.get("playful", 0) + 4} if kids else kind.styles
    style, season = _weighted(rng, styles), _weighted(rng, kind.seasons)
    band = _weighted(rng, {"budget": 3, "middle": 4, "premium": 2})
    price = kind.price * words.BAND_FACTOR[band] * (0.6 if kids else 1.0) * rng.uniform(0.88, 1.12)
    name = f"children's {kind.noun}" if kids else kind.noun
    singular = "An" if colour == "orange" else "A"
    plural = kind.noun in words.PLURAL
    opening = _pick(rng, words.GARMENT_OPENING).format(
        **{"colour": colour, "colour_cap": colour.capitalize(), "noun": name, "style": style},
        article="A pair of" if plural else singular,
        this="These" if plural else "This",
        comes="come" if plural else "comes",
    )
    rest = [_pick(rng, words.STYLE_SENTENCE[style])]
    further = [words.SEASON_SENTENCE[season], words.BAND_SENTENCE[band]] + ([words.KIDS_SENTENCE] if kids else [])
    if rng.random() < 0.7:
        rest.append(_pick(rng, further[int(rng.integers(len(further)))]))
    sender = int(row["sender_id"])
    return {
        "picture": picture,
        "item": f"clothing-{number:03d}",
        "title": f"{colour.capitalize()} {name} {_pick(rng, words.MODEL_NAMES)}",
        "text": " ".join([opening, *rest]),
        "price": f"{np.floor(price) + 0.99:.2f}",
        "category": words.CLOTHING_CATEGORY[row["label"]],
        "store": words.CLOTHING_STORES.get(sender, words.OTHER_CLOTHING_STORES[sender % 3]),
        "image": f"clothing-{number:03d}.jpg",
        "department": "Clothing",
        **{"colour": colour, "style": style, "season": season, "price_band": band},
        "kids": int(kids),
        "grams": round(kind.grams * (0.5 if kids else 1.0) * rng.uniform(0.85, 1.15)),
    }


def _grocery_rows(folder: Path) -> list[dict[str, Any]]:
    by_product: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in _read(folder / "images.csv"):
        by_product[row["product"]].append(row)
    rows = []
    for product in sorted(by_product):
        photos = sorted(by_product[product], key=lambda r: _shuffled(r["image"]))[:PER_GROCERY_PRODUCT]
        # Two articles of one product differ in their grade, as two brands on one shelf do.
        bands = numpy_generator(0, "demo-assets", product).permutation(words.BANDS)
        rows += [(photo, str(band)) for photo, band in zip(photos, bands, strict=False)]
    return [_grocery(folder, row, band, number) for number, (row, band) in enumerate(rows, start=1)]


def _grocery(folder: Path, row: Mapping[str, str], band: str, number: int) -> dict[str, Any]:
    rng = numpy_generator(0, "demo-assets", row["image"])
    picture = _picture(folder / "images" / row["image"])
    category, base, grams = words.GROCERIES[row["group"]]
    style = _grocery_style(rng, row["product"], category, band)
    name = _grocery_name(row["product"], row["group"])
    season = _weighted(rng, {"all year": 4, "summer": 2, "autumn": 2, "winter": 1, "spring": 1})
    if row["department"] == "Packages":
        season = "all year"
    named = f"organic {name}" if style == "organic" and "organic" not in name else name
    opening = _pick(rng, words.GROCERY_OPENING).format(
        name=named,
        name_cap=named[0].upper() + named[1:],
        category=category.lower(),
        grams=grams,
        season_phrase="whole year" if season == "all year" else f"{season} table",
    )
    rest = [_pick(rng, words.STYLE_SENTENCE[style])]
    if rng.random() < 0.6:
        rest.append(_pick(rng, words.GROCERY_BAND_SENTENCE[band]))
    stores = words.DAIRY_STORES if row["department"] == "Packages" else words.FRESH_STORES
    size = f"{grams / 1000:g} kg" if grams >= 1000 else f"{grams} g"
    return {
        "picture": picture,
        "item": f"grocery-{number:03d}",
        "title": f"{named[0].upper()}{named[1:]} {size}, {band} choice",
        "text": " ".join([opening, *rest]),
        "price": f"{base * words.BAND_FACTOR[band] * rng.uniform(0.9, 1.1) + 0.2:.2f}",
        "category": category,
        "store": _pick(rng, stores),
        "image": f"grocery-{number:03d}.jpg",
        "department": {"Packages": "Dairy and juice"}.get(row["department"], row["department"]),
        "colour": dominant_colour(picture, fills_frame=True),
        **{"style": style, "season": season, "price_band": band},
        "kids": 0,
        "grams": grams,
    }


def _grocery_style(rng: np.random.Generator, product: str, category: str, band: str) -> str:
    if category == "Plant-based":
        return "plant-based"
    if "Ecological" in product:
        return "organic"
    likely = {"everyday": 4.0, "organic": 2.0 + 2.0 * (band == "premium"), "indulgent": 1.0}
    if category in {"Tropical fruit", "Melons", "Stone fruit", "Juices"}:
        likely["indulgent"] = 4.0
    return _weighted(rng, likely)


def _grocery_name(product: str, group: str) -> str:
    """A plain name without the maker: ``Arla-Ecological-Sour-Cream`` -> ``organic sour cream``."""
    product = "-".join(part for part in product.split("-") if part not in words.DROPPED_WORDS)
    for source, said in words.SAID_DIFFERENTLY.items():
        product = product.replace(source, said)
    name = product.replace("-", " ").lower().replace("morgon ", "")
    if group in {"Apple", "Pear"}:
        return f"{name.title()} {group.lower()}s"
    if group == "Juice":
        return f"{name.replace('juice', '').strip()} juice"
    return name


def _picture(path: Path) -> Image.Image:
    with Image.open(path) as source:
        picture = ImageOps.exif_transpose(source).convert("RGB")
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    picture.info.clear()  # no EXIF: where and when the photo was taken is nobody's business
    return picture


def _read(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _shuffled(text: str) -> bytes:
    """A fixed pseudo-random order that does not depend on the order of the source's rows."""
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _weighted(rng: np.random.Generator, weights: Mapping[str, float]) -> str:
    values = np.array(list(weights.values()), dtype=np.float64)
    return list(weights)[int(rng.choice(len(values), p=values / values.sum()))]


NOTICE = """\
The bundled demo shop
=====================

media/clothing-*.jpg   Photos of the clothing-dataset, https://github.com/alexeygrigorev/clothing-dataset,
                       commit 7ed86a9cc56763b6acb35e41cb35184e43a5d218. Public domain dedication CC0 1.0
                       (LICENSE.clothing). Resized to fit 160 px and recompressed. "store" stands for the contributor.
media/grocery-*.jpg    Photos of the GroceryStoreDataset, https://github.com/marcusklasson/GroceryStoreDataset,
                       commit fc80ba90f803d79d0383df52c5a4ac5de99ff6fc. Copyright (c) 2019 Marcus Klasson, MIT licence
                       (LICENSE.grocery). Resized to fit 160 px and recompressed. The iconic product pictures and
                       descriptions of that data set are not used.
items.csv              Class, product group, contributor and the kids flag derive from the two data sets; the colour is
                       computed from each picture; titles, texts, prices, styles, seasons, price bands, weights and
                       store names are invented by this project. Any likeness to a real offer is an accident. Trade
                       marks visible in photos belong to their owners, who have no part in this project.

The shoppers of the demo shop are simulated (mmfed/data/demo_shoppers.py): no person stands behind any interaction.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clothing", type=Path)
    parser.add_argument("grocery", type=Path)
    parser.add_argument("target", type=Path, nargs="?", default=TARGET)
    options = parser.parse_args()
    build(options.clothing, options.grocery, options.target)


if __name__ == "__main__":
    main()
