"""The bundled catalogue and the simulated shoppers: integrity, reproducibility, plausible statistics."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmfed.data.demo import DEFAULT_USERS, load_demo, simulate
from mmfed.data.demo_catalogue import ASSETS, demo_catalogue, item_rows
from mmfed.data.demo_pools import ItemPools
from mmfed.data.demo_shoppers import DAYS, EPOCH, SESSIONS_AT_MOST, STEPS_AT_MOST, Shoppers, Taste
from mmfed.data.schema import Action, Categorical, Interactions, Shop
from mmfed.errors import ExitCode, MmfedError

COLUMNS = ("indptr", "items", "times", "actions", "values")
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def shop() -> Shop:
    return load_demo()


@pytest.fixture(scope="module")
def crowd() -> Interactions:
    return load_demo(4000).interactions


def digest(interactions: Interactions) -> str:
    joined = hashlib.sha256()
    for column in COLUMNS:
        joined.update(getattr(interactions, column).tobytes())
    joined.update("\n".join(interactions.user_ids).encode())
    return joined.hexdigest()


class TestCatalogue:
    def test_size_and_ids(self, shop: Shop) -> None:
        assert shop.catalogue.size == 485
        assert len(set(shop.catalogue.item_ids)) == shop.catalogue.size

    def test_assets_stay_small(self) -> None:
        files = [path for path in ASSETS.rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in files) <= 6 * MEGABYTE
        assert {path.name for path in files if path.parent == ASSETS} == {
            *("NOTICE", "LICENSE.clothing", "LICENSE.grocery", "items.csv")
        }
        assert "Marcus Klasson" in (ASSETS / "LICENSE.grocery").read_text(encoding="utf-8")

    def test_every_picture_opens_and_belongs_to_one_item(self, shop: Shop) -> None:
        named = [path for path in shop.catalogue.images if path is not None]
        assert len(named) == len(set(named)) == shop.catalogue.size
        assert set(named) == set((ASSETS / "media").iterdir())
        for path in named:
            with Image.open(path) as picture:
                picture.load()
                assert picture.mode == "RGB"
                assert max(picture.size) <= 160
                assert min(picture.size) >= 60
                assert not picture.getexif()

    def test_pictures_differ(self, shop: Shop) -> None:
        prints = {hashlib.sha256(path.read_bytes()).digest() for path in shop.catalogue.images if path}
        assert len(prints) == shop.catalogue.size

    def test_every_cell_is_filled(self, shop: Shop) -> None:
        catalogue = shop.catalogue
        assert all(catalogue.titles)
        assert all(text and 1 <= text.count(".") <= 5 for text in catalogue.texts)
        assert len(set(catalogue.texts)) > 0.8 * catalogue.size
        assert (catalogue.prices > 0.3).all()
        assert (catalogue.prices < 400).all()
        assert isinstance(catalogue.category, Categorical)
        assert catalogue.store is not None
        for column in (catalogue.category, catalogue.store, *catalogue.categorical.values()):
            assert (column.codes >= 0).all()
            assert np.bincount(column.codes).min() >= 1
        assert list(catalogue.categorical) == ["department", "colour", "style", "season", "price_band"]
        assert set(catalogue.numeric) == {"kids", "grams"}

    def test_clothing_is_balanced(self, shop: Shop) -> None:
        category, department = shop.catalogue.category, shop.catalogue.categorical["department"]
        assert isinstance(category, Categorical)
        clothing = department.codes == department.names.index("Clothing")
        counts = np.bincount(category.codes[clothing])
        assert set(counts[counts > 0]) == {19}

    def test_no_maker_is_named(self, shop: Shop) -> None:
        words = " ".join([*(t or "" for t in shop.catalogue.titles), *(t or "" for t in shop.catalogue.texts)]).lower()
        for maker in ("arla", "alpro", "bravo", "garant", "morgon", "oatly", "tropicana", "valio", "yoggi"):
            assert maker not in words.replace("garantee", "")

    @pytest.mark.parametrize("items", [10, 77, 484, 485, 486, 1500])
    def test_scales(self, items: int) -> None:
        rows = item_rows(items)
        assert len(rows) == items == len({row["item"] for row in rows})
        assert all(set(row) == set(rows[0]) for row in rows)
        assert all((ASSETS / "media" / row["image"]).is_file() for row in rows)

    def test_further_offers_share_the_article_but_not_the_seller(self) -> None:
        rows = item_rows(2 * 485)
        for first, second in zip(rows[:485], rows[485:], strict=True):
            assert first["store"] != second["store"]
            assert 0.89 * float(first["price"]) < float(second["price"]) < 1.11 * float(first["price"])
            for column in ("text", "image", "category", "department", "colour", "style", "season", "price_band"):
                assert first[column] == second[column]

    @pytest.mark.parametrize("items", [-1, 0, 9, 10**9])
    def test_refuses_sizes(self, items: int) -> None:
        with pytest.raises(MmfedError, match=r"cannot have") as caught:
            item_rows(items)
        assert caught.value.code == ExitCode.CONFIG

    def test_a_broken_installation_is_named(self, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
        monkeypatch.setattr("mmfed.data.demo_catalogue.ASSETS", tmp_path)
        with pytest.raises(MmfedError, match=r"items\.csv: cannot be read"):
            item_rows()
        with pytest.raises(MmfedError, match=r"items\.csv: cannot be read"):
            demo_catalogue(tmp_path)


class TestReproducibility:
    def test_default_shop(self, shop: Shop) -> None:
        assert shop.interactions.user_count == DEFAULT_USERS
        assert digest(load_demo(DEFAULT_USERS, 0).interactions) == digest(shop.interactions)

    def test_another_seed_is_another_population(self, shop: Shop) -> None:
        assert digest(load_demo(seed=1).interactions) != digest(shop.interactions)

    @pytest.mark.parametrize("chunk", [1, 37, 599, 10_000])
    def test_chunks_do_not_matter(self, shop: Shop, chunk: int) -> None:
        assert digest(simulate(shop.catalogue, DEFAULT_USERS, 0, chunk=chunk)) == digest(shop.interactions)

    @settings(max_examples=25, deadline=None)
    @given(first=st.integers(0, DEFAULT_USERS - 1), count=st.integers(1, 40), seed=st.integers(0, 3))
    def test_a_range_is_the_same_by_itself(self, first: int, count: int, seed: int) -> None:
        whole = load_demo(seed=seed).interactions
        last = min(first + count, DEFAULT_USERS)
        rows = Shoppers(demo_catalogue(), seed).rows(first, last)
        part = slice(int(whole.indptr[first]), int(whole.indptr[last]))
        for column in ("items", "times", "actions", "values"):
            np.testing.assert_array_equal(getattr(rows, column), getattr(whole, column)[part])

    def test_more_shoppers_leave_the_first_alone(self, shop: Shop) -> None:
        more = load_demo(DEFAULT_USERS + 50).interactions.keep_users(np.arange(DEFAULT_USERS))
        assert digest(more) == digest(shop.interactions)

    @pytest.mark.parametrize("users", [0, -5])
    def test_refuses_no_users(self, users: int) -> None:
        with pytest.raises(MmfedError, match=r"cannot have") as caught:
            load_demo(users)
        assert caught.value.code == ExitCode.CONFIG


class TestPlausibility:
    def test_columns(self, crowd: Interactions) -> None:
        assert [getattr(crowd, name).dtype.name for name in COLUMNS] == ["int64", "int32", "int64", "int8", "float32"]
        assert {field.name for field in fields(crowd)} >= set(COLUMNS)
        assert len(set(crowd.user_ids)) == crowd.user_count

    def test_times_increase_inside_the_period(self, crowd: Interactions) -> None:
        same = np.diff(crowd.user_of_row()) == 0
        assert (np.diff(crowd.times)[same] > 0).all()
        assert crowd.times.min() >= EPOCH
        assert crowd.times.max() < EPOCH + DAYS * 86_400
        hours = (crowd.times - EPOCH) // 3600 % 24
        assert (np.isin(hours, np.arange(7, 24))).all()

    def test_lengths_are_power_law_like(self, crowd: Interactions) -> None:
        distinct = np.array([len(np.unique(crowd.items[crowd.rows(u)])) for u in range(crowd.user_count)])
        assert 12 <= np.median(distinct) <= 15
        assert distinct.min() >= 3
        assert 90 <= distinct.max() <= SESSIONS_AT_MOST * STEPS_AT_MOST
        # A tail: the busiest per cent does a multiple of its share, unlike in a thin-tailed law.
        busiest = np.sort(crowd.lengths)[-crowd.user_count // 100 :].sum() / crowd.lengths.sum()
        assert 0.05 < busiest < 0.2

    def test_popularity_is_power_law_like(self, crowd: Interactions) -> None:
        counts = np.sort(np.bincount(crowd.items, minlength=crowd.item_count))[::-1]
        rank = np.arange(30, 300)
        slope, _ = np.polyfit(np.log(rank), np.log(counts[rank]), 1)
        assert -1.2 < slope < -0.7
        assert counts[: crowd.item_count // 10].sum() > 0.3 * counts.sum()

    def test_funnel(self, crowd: Interactions) -> None:
        users = crowd.user_of_row()
        tally = np.zeros((3, crowd.user_count, crowd.item_count), dtype=np.int32)
        np.add.at(tally, (crowd.actions, users, crowd.items), 1)
        assert (tally[Action.BUY] <= tally[Action.CART]).all()
        assert (tally[Action.CART] <= tally[Action.VIEW]).all()
        views, carts, buys = tally.sum((1, 2))
        assert 0.15 < carts / views < 0.35
        assert 0.4 < buys / carts < 0.7

    def test_a_cart_follows_its_view_and_a_purchase_its_cart(self, crowd: Interactions) -> None:
        key = crowd.user_of_row() * crowd.item_count + crowd.items
        rows = np.arange(len(crowd))
        first = {}
        for action in (Action.VIEW, Action.CART, Action.BUY):
            chosen = crowd.actions == action
            keys, index = np.unique(key[chosen], return_index=True)
            first[action] = (keys, rows[chosen][index])
        for earlier, later in ((Action.VIEW, Action.CART), (Action.CART, Action.BUY)):
            keys, places = first[later]
            position = np.searchsorted(first[earlier][0], keys)
            np.testing.assert_array_equal(first[earlier][0][position], keys)
            assert (first[earlier][1][position] < places).all()

    def test_purchases_carry_the_price(self, shop: Shop, crowd: Interactions) -> None:
        bought = crowd.actions == Action.BUY
        np.testing.assert_array_equal(crowd.values[bought], shop.catalogue.prices[crowd.items[bought]])
        assert np.isnan(crowd.values[~bought]).all()

    def test_nothing_is_opened_twice_in_a_row(self, crowd: Interactions) -> None:
        views = crowd.keep_rows(crowd.actions == Action.VIEW)
        pair = np.diff(views.user_of_row()) == 0
        close = np.diff(views.times) < 1800
        assert not (np.diff(views.items) == 0)[pair & close].any()

    def test_neighbours_in_a_session_share_a_category(self, shop: Shop, crowd: Interactions) -> None:
        views = crowd.keep_rows(crowd.actions == Action.VIEW)
        category = shop.catalogue.category
        assert isinstance(category, Categorical)
        codes = category.codes[views.items]
        pair = np.diff(views.user_of_row()) == 0
        close = np.diff(views.times) < 1800
        same = np.diff(codes) == 0
        assert same[pair & close].mean() > 0.5
        assert same[pair & ~close].mean() < 0.3

    @pytest.mark.parametrize("trait", ["colour", "style", "price_band", "store", "trend", "season", "children"])
    def test_each_trait_decides(self, shop: Shop, trait: str) -> None:
        """What a shopper likes is viewed more when taste for it is on than when it is off."""
        catalogue = shop.catalogue
        off = replace(Taste(), **{trait: 1.0}, **({"second_colour": 1.0} if trait == "colour" else {}))
        if trait == "season":  # everybody's, so it shows in time
            assert self._in_season(shop, Taste()) > self._in_season(shop, off) + 0.01
            return
        shoppers = Shoppers(catalogue, 0)
        assert catalogue.store is not None
        label = {
            **{name: column.codes for name, column in catalogue.categorical.items()},
            "store": catalogue.store.codes,
            "trend": shoppers.trends,
            "children": catalogue.numeric["kids"] > 0,
        }[trait]
        traits = shoppers.traits(np.arange(1500))
        liked = traits.clothing_style if trait == "style" else getattr(traits, trait)
        department = catalogue.categorical["department"]
        clothing = department.codes == department.names.index("Clothing")

        def matching(taste: Taste) -> float:
            views = simulate(catalogue, 1500, 0, taste=taste)
            views = views.keep_rows((views.actions == Action.VIEW) & clothing[views.items])
            wanted, seen = liked[views.user_of_row()], label[views.items]
            values = [True] if trait == "children" else np.unique(wanted)  # few see anything but adults' sizes
            return float(np.mean([(seen == value)[wanted == value].mean() for value in values]))

        assert matching(Taste()) > 1.15 * matching(off)

    def _in_season(self, shop: Shop, taste: Taste) -> float:
        """Share of summer items among the views of June, less that of January."""
        season = shop.catalogue.categorical["season"]
        views = simulate(shop.catalogue, 1500, 0, taste=taste)
        summer = season.codes[views.items] == season.names.index("summer")
        day = (views.times - EPOCH) // 86_400
        return float(summer[day > 150].mean() - summer[day < 60].mean())

    def test_taste_drifts(self, shop: Shop, crowd: Interactions) -> None:
        """Sessions far apart in time share a category less often than sessions close in time."""
        category = shop.catalogue.category
        assert isinstance(category, Categorical)
        views = crowd.keep_rows(crowd.actions == Action.VIEW)
        users, codes = views.user_of_row(), category.codes[views.items]
        half = (views.times - EPOCH) // (DAYS * 86_400 // 4)
        share = np.zeros((4, crowd.user_count, len(category.names)))
        np.add.at(share, (half, users, codes), 1)
        active = (share.sum(2) >= 5).all(0)
        share = share[:, active] / share[:, active].sum(2, keepdims=True)
        near = np.minimum(share[0], share[1]).sum(1).mean()
        far = np.minimum(share[0], share[3]).sum(1).mean()
        assert active.sum() > 100
        assert far < near - 0.03


def test_the_table_file_has_the_documented_columns() -> None:
    with open(ASSETS / "items.csv", encoding="utf-8", newline="") as file:
        header = next(csv.reader(file))
    assert header[:7] == ["item", "title", "text", "price", "category", "store", "image"]


@given(uniform=st.sampled_from([0.0, 1e-12, 0.25, 0.5, 1 - 2.0**-53]), style=st.integers(-1, 1))
def test_a_draw_stays_on_its_shelf(uniform: float, style: int) -> None:
    category, styles = np.array([0, 1, 1, 0, 1, 2]), np.array([0, 0, 1, 1, 1, 0])
    pools = ItemPools(category, 3, styles, 2, np.array([5, 1, 9, 2, 4, 7]))
    drawn = pools.draw(np.array([1, 1]), np.array([style, -1]), np.full((2, 3), uniform))
    assert (category[drawn] == 1).all()
    if style >= 0:
        assert (styles[drawn[0]] == style).all()


def test_draws_follow_popularity() -> None:
    pools = ItemPools(np.zeros(3, dtype=np.int64), 1, np.zeros(3, dtype=np.int64), 1, np.array([1, 2, 5]))
    grid = (np.arange(8) + 0.5) / 8
    drawn = pools.draw(np.array([0]), np.array([-1]), grid[None])
    np.testing.assert_array_equal(np.bincount(drawn[0]), [1, 2, 5])
