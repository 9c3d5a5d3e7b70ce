"""Simulated shoppers of the demo shop. Nobody real stands behind any row.

Who a shopper is (drawn once per shopper):
  * two of ten lifestyles; a lifestyle is a preference over categories. Eight favourite categories, in order, come from
    the two, three times as often from the first one;
  * a favourite and a second colour, one style for clothes and one for groceries, a price band, a store, whether there
    are children, and one of six *trends*. A trend is a hidden property of items: no column, text or picture shows it,
    as in real shops content does not explain all taste;
  * how active: the number of sessions follows a power law (Lomax, exponent 1.8, at most 50);
  * how fast taste drifts: the window over the favourites moves along with time.

What a shopper does: sessions on separate days over ``DAYS`` days. A session starts in a favourite category and wanders:
mostly it stays in the category and often in the style of the last item, so neighbours in time are related. At each
step the shopper looks at ``LOOKED_AT`` items, which come up by popularity (power law), and opens one with probability
proportional to taste, none twice in a session. A view may lead to the cart, more often the better it fits, and a cart
to a purchase at the end of the session. A purchase's value is the price.

Every draw is addressed by (seed, shopper, session, step, purpose) through ``rng.hash_uniform``. Shopper u's history
thus depends on the seed, the catalogue and u alone: not on how many shoppers there are, nor on the chunk they are
computed in. Weights are products and whole numbers; BLAS and transcendental functions, whose last digit depends on
the machine, stay out of the draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mmfed.data.demo_pools import ItemPools
from mmfed.data.schema import Action, Catalogue, Categorical
from mmfed.rng import derive, hash_uniform, numpy_generator
from mmfed.types import BoolArray, FloatArray, IntArray

EPOCH = 1_704_067_200  # 2024-01-01 00:00 UTC
DAY = 86_400
DAYS = 180
LIFESTYLES = 10
FAVOURITES = 8
TRENDS = 6
LOOKED_AT = 8
SESSIONS_AT_MOST = 50
STEPS_AT_MOST = 12
SECONDS_BITS = 25  # 2**25 s > DAYS


@dataclass(frozen=True)
class Taste:
    """How strongly taste decides. A factor multiplies the chance of an item that matches; 1 is indifference.

    Attributes:
        category: probability that a session starts in a favourite category rather than one by popularity.
        stay_in_category, stay_in_style: probabilities that the next item shares that with the last one.
        drift: by how many places the window over the favourites moves at most in ``DAYS`` days.
    """

    category: float = 0.8
    colour: float = 4.0
    second_colour: float = 2.0
    style: float = 3.0
    price_band: float = 2.0
    store: float = 1.5
    trend: float = 3.0
    children: float = 4.0
    season: float = 1.3
    stay_in_category: float = 0.6
    stay_in_style: float = 0.5
    drift: float = 3.0


INDIFFERENT = Taste(
    category=0.0,
    colour=1.0,
    second_colour=1.0,
    style=1.0,
    price_band=1.0,
    store=1.0,
    trend=1.0,
    children=1.0,
    season=1.0,
    stay_in_category=0.0,
    stay_in_style=0.0,
    drift=0.0,
)


class Rows(NamedTuple):
    """Interactions of a range of shoppers, ordered by shopper and time; a shopper's times strictly increase.

    Attributes:
        shoppers: [rows] int64 shopper numbers.
        items, times, actions, values: as in ``schema.Interactions``.
    """

    shoppers: IntArray
    items: IntArray
    times: IntArray
    actions: IntArray
    values: FloatArray


class Traits(NamedTuple):
    """Who each shopper is: [shoppers] each, ``favourites`` [shoppers, FAVOURITES]; labels are the catalogue's codes."""

    sessions: IntArray
    favourites: IntArray
    colour: IntArray
    second_colour: IntArray
    clothing_style: IntArray
    grocery_style: IntArray
    price_band: IntArray
    store: IntArray
    trend: IntArray
    children: BoolArray
    joined: IntArray
    drift: FloatArray


class _Sessions(NamedTuple):
    """[sessions] each."""

    owner: IntArray
    address: IntArray
    starts: IntArray
    steps: IntArray
    shift: IntArray
    season: IntArray


class Shoppers:
    """The population of a demo shop; any range of it can be computed by itself.

    Args:
        catalogue: from ``demo_catalogue``.
        seed: the population, and the items' popularity and trends.
        taste: strengths; ``INDIFFERENT`` leaves only popularity (for controls).

    Attributes:
        trends: [items] the hidden property; for studies of the simulation, never for a model.
    """

    def __init__(self, catalogue: Catalogue, seed: int, taste: Taste | None = None) -> None:
        self.taste = Taste() if taste is None else taste
        self.catalogue_size = catalogue.size
        self._traits_key = derive(seed, "demo-shop", "traits")
        self._sessions_key = derive(seed, "demo-shop", "sessions")
        self._steps_key = derive(seed, "demo-shop", "steps")
        category = _column(catalogue.category)
        style, department = catalogue.categorical["style"], catalogue.categorical["department"]
        self._category, self._style = category.codes, style.codes
        self._colour = catalogue.categorical["colour"].codes
        self._band = catalogue.categorical["price_band"].codes
        self._store = _column(catalogue.store).codes
        self._season = catalogue.categorical["season"].codes
        self._kids = catalogue.numeric["kids"] > 0
        self._clothing = department.codes == department.names.index("Clothing")
        self._prices = catalogue.prices
        self._clothing_styles = np.unique(style.codes[self._clothing])
        self._grocery_styles = np.unique(style.codes[~self._clothing])
        self._season_now = _seasons(catalogue.categorical["season"])

        rng = numpy_generator(seed, "demo-shop", "items")
        ranks = rng.permutation(catalogue.size)
        # Zipf-Mandelbrot, as whole numbers so that sums are exact.
        popularity = np.array([round(1e7 / (rank + 8) ** 1.1) for rank in ranks.tolist()], dtype=np.int64)
        self.trends = rng.integers(0, TRENDS, catalogue.size)
        self._pools = ItemPools(category.codes, len(category.names), style.codes, len(style.names), popularity)
        # The sixth power leaves a lifestyle a handful of categories it really cares for.
        cubed = rng.random((LIFESTYLES, len(category.names)))
        cubed = cubed * cubed * cubed
        self._lifestyles = np.cumsum(cubed * cubed * (self._pools.category_weight > 0), axis=1)
        self._colours = np.cumsum(np.bincount(self._colour[self._clothing], minlength=1))
        self._bands = len(catalogue.categorical["price_band"].names)
        self._stores = len(_column(catalogue.store).names)

    def rows(self, first: int, last: int) -> Rows:
        """The histories of shoppers ``first`` to ``last - 1``."""
        numbers = np.arange(first, last, dtype=np.int64)
        traits = self.traits(numbers)
        sessions = self._draw_sessions(numbers, traits)
        return self._finish(numbers, sessions, self._walk(traits, sessions))

    def traits(self, numbers: IntArray) -> Traits:
        """The latent taste of the given shoppers; for studies of the simulation, never for a model."""
        u = hash_uniform(self._traits_key, numbers, np.arange(13 + 2 * FAVOURITES))
        main, second = (u[:, 1] * LIFESTYLES).astype(np.int64), (u[:, 2] * LIFESTYLES).astype(np.int64)
        of_main = u[:, 12 : 12 + FAVOURITES] < 0.75
        lifestyle = np.where(of_main, main[:, None], second[:, None])
        pick = u[:, 12 + FAVOURITES : -1]
        edges = self._lifestyles[lifestyle]
        favourites = (edges <= pick[:, :, None] * edges[:, :, -1:]).sum(-1)
        colour = np.searchsorted(self._colours, u[:, 3] * self._colours[-1], side="right")
        other = np.searchsorted(self._colours, u[:, 4] * self._colours[-1], side="right")
        return Traits(
            sessions=np.searchsorted(_SESSION_COUNTS, u[:, 0], side="right") + 1,
            favourites=favourites,
            colour=colour,
            second_colour=other,
            clothing_style=self._clothing_styles[(u[:, 5] * len(self._clothing_styles)).astype(np.int64)],
            grocery_style=self._grocery_styles[(u[:, 6] * len(self._grocery_styles)).astype(np.int64)],
            price_band=(u[:, 7] * self._bands).astype(np.int64),
            store=(u[:, 8] * self._stores).astype(np.int64),
            trend=(u[:, 9] * TRENDS).astype(np.int64),
            children=u[:, 10] < 0.25,
            joined=(u[:, 11] * u[:, 11] * 60).astype(np.int64),
            drift=u[:, -1] * self.taste.drift,
        )

    def _draw_sessions(self, numbers: IntArray, traits: Traits) -> _Sessions:
        owner = np.repeat(np.arange(len(numbers)), traits.sessions)
        ordinal = np.arange(len(owner)) - np.repeat(np.cumsum(traits.sessions) - traits.sessions, traits.sessions)
        address = numbers[owner] * (SESSIONS_AT_MOST + 1) + ordinal
        u = hash_uniform(self._sessions_key, address, np.arange(4))
        # One session in each of equally long stretches of the shopper's time: ordered, and never two on a day.
        span, count = DAYS - traits.joined[owner], traits.sessions[owner]
        low, high = ordinal * span // count, (ordinal + 1) * span // count
        day = traits.joined[owner] + low + (u[:, 0] * (high - low)).astype(np.int64)
        quarter = np.searchsorted(_QUARTER_HOURS, u[:, 1] * _QUARTER_HOURS[-1], side="right")
        steps = np.searchsorted(_STEP_COUNTS, u[:, 2] * _STEP_COUNTS[-1], side="right") + 2 + 4 * (ordinal == 0)
        return _Sessions(
            owner=owner,
            address=address,
            starts=day * DAY + quarter * 900 + (u[:, 3] * 900).astype(np.int64),
            steps=steps,
            shift=(traits.drift[owner] * day / DAYS).astype(np.int64),
            season=self._season_now[day],
        )

    def _walk(self, traits: Traits, sessions: _Sessions) -> dict[str, np.ndarray]:
        """All sessions at once, one step at a time; [steps, ...] columns of the visits, in step order."""
        taste, visits = self.taste, []
        alive = np.arange(len(sessions.owner))
        last = np.full(len(alive), -1, dtype=np.int64)
        opened = np.full((len(alive), STEPS_AT_MOST), -1, dtype=np.int64)
        clock = sessions.starts.copy()
        for step in range(STEPS_AT_MOST):
            alive = alive[sessions.steps[alive] > step]
            if not len(alive):
                break
            owner, before = sessions.owner[alive], last[alive]
            u = hash_uniform(self._steps_key, sessions.address[alive], np.arange(10 + LOOKED_AT) + step * 64)
            rank = np.searchsorted(_FAVOURITE_RANKS, u[:, 0] * _FAVOURITE_RANKS[-1], side="right")
            favourite = traits.favourites[owner, rank + sessions.shift[alive]]
            anywhere = self._pools.popular_category(u[:, 1])
            category = np.where(u[:, 2] < taste.category, favourite, anywhere)
            stays = (before >= 0) & (u[:, 3] < taste.stay_in_category)
            category = np.where(stays, self._category[before], category)
            in_style = stays & (u[:, 4] < taste.stay_in_style)
            looked_at = self._pools.draw(category, np.where(in_style, self._style[before], -1), u[:, 10:])
            appeal = self._appeal(traits, owner, sessions.season[alive], looked_at)
            again = (looked_at[:, :, None] == opened[alive, None, :step]).any(-1)
            appeal = np.where(again, appeal * 2.0**-20, appeal)
            edges = np.cumsum(appeal, axis=1)
            choice = (edges <= u[:, 5, None] * edges[:, -1:]).sum(1)
            item = np.take_along_axis(looked_at, choice[:, None], 1)[:, 0]
            liked = np.take_along_axis(appeal, choice[:, None], 1)[:, 0]
            clock[alive] += 20 + (u[:, 8] * u[:, 8] * 200).astype(np.int64)
            to_cart = u[:, 6] < np.where(liked >= 12, 0.45, np.where(liked >= 4, 0.3, 0.15))
            fresh = ~np.take_along_axis(again, choice[:, None], 1)[:, 0]
            visits.append(
                {
                    "session": alive[fresh],
                    "item": item[fresh],
                    "time": clock[alive][fresh],
                    "cart": to_cart[fresh],
                    "buy": (to_cart & (u[:, 7] < 0.55))[fresh],
                    "pause": 4 + (u[fresh, 9] * 14).astype(np.int64),
                }
            )
            last[alive] = opened[alive, step] = item
        columns = {name: np.concatenate([visit[name] for visit in visits]) for name in visits[0]}
        columns["checkout"] = clock[columns["session"]] + 45
        return columns

    def _appeal(self, traits: Traits, owner: IntArray, season: IntArray, items: IntArray) -> FloatArray:
        """[visits, LOOKED_AT] product of the factors of everything that matches."""
        taste = self.taste
        clothing = self._clothing[items]
        colour = self._colour[items]
        factor = np.where(
            clothing & (colour == traits.colour[owner, None]),
            taste.colour,
            np.where(clothing & (colour == traits.second_colour[owner, None]), taste.second_colour, 1.0),
        )
        style = np.where(clothing, traits.clothing_style[owner, None], traits.grocery_style[owner, None])
        factor *= np.where(self._style[items] == style, taste.style, 1.0)
        factor *= np.where(self._band[items] == traits.price_band[owner, None], taste.price_band, 1.0)
        factor *= np.where(self._store[items] == traits.store[owner, None], taste.store, 1.0)
        factor *= np.where(self.trends[items] == traits.trend[owner, None], taste.trend, 1.0)
        factor *= np.where(self._season[items] == season[:, None], taste.season, 1.0)
        mismatch = clothing & (self._kids[items] != traits.children[owner, None])
        return factor * np.where(mismatch, 1.0 / taste.children, 1.0)

    def _finish(self, numbers: IntArray, sessions: _Sessions, visits: dict[str, np.ndarray]) -> Rows:
        """The funnel as rows: views, carts a few seconds later, purchases at the end of the session."""
        cart, buy = visits["cart"], visits["buy"]
        visit = np.concatenate([np.arange(len(cart)), np.flatnonzero(cart), np.flatnonzero(buy)])
        actions = np.repeat([Action.VIEW, Action.CART, Action.BUY], [len(cart), cart.sum(), buy.sum()]).astype(np.int8)
        moments = np.concatenate([visits["time"], (visits["time"] + visits["pause"])[cart], visits["checkout"][buy]])
        owner = sessions.owner[visits["session"]][visit]
        key = (owner << SECONDS_BITS) + moments
        # Purchases of one checkout share the second and keep the order of the visits.
        order = np.argsort(key, kind="stable")
        place = np.arange(len(key))
        times = np.maximum.accumulate(key[order] - place) + place
        items = visits["item"][visit][order]
        actions = actions[order]
        return Rows(
            shoppers=numbers[owner[order]],
            items=items.astype(np.int32),
            times=(times & ((1 << SECONDS_BITS) - 1)) + EPOCH,
            actions=actions,
            values=np.where(actions == Action.BUY, self._prices[items], np.float32(np.nan)).astype(np.float32),
        )


def _column(labels: object) -> Categorical:
    if not isinstance(labels, Categorical):
        raise TypeError("the demo shop's category and store are single labels")
    return labels


def _seasons(seasons: Categorical) -> IntArray:
    """[DAYS] which season label is current on each day."""
    names = ["winter"] * 70 + ["spring"] * 75 + ["summer"] * (DAYS - 145)
    return np.array([seasons.names.index(name) if name in seasons.names else -2 for name in names])


def _lomax_cdf(largest: int, *, scale: float, exponent: float) -> FloatArray:
    """[largest - 1] P(count <= 1), P(count <= 2), ...: power law with a soft start, cut at ``largest``."""
    return np.array([1 - ((count + scale) / (1 + scale)) ** -exponent for count in range(2, largest + 1)])


_SESSION_COUNTS = _lomax_cdf(SESSIONS_AT_MOST, scale=3.0, exponent=1.8)
_STEP_COUNTS = np.cumsum([20, 25, 20, 14, 10, 7, 4])  # 2 to 8 items a session
_FAVOURITE_RANKS = np.cumsum([40, 25, 17, 11, 7])
# Quarter hours of the day: nothing before seven, a peak at noon and a higher one in the evening.
_QUARTER_HOURS = np.cumsum([0] * 28 + [2] * 8 + [4] * 10 + [7] * 8 + [4] * 16 + [8] * 12 + [5] * 8 + [0] * 6)
