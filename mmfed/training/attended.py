"""The full softmax where modalities are weighed by user and item: a user's gradients from small matrices.

With e_tm = exp⟨u_t, q_m⟩ and w_jm the item's part of the weights, state t scores item j
s_tj = Σ_m e_tm w_jm M_j ⟨u_t, z_jm⟩ / D_tj + b_j, D_tj = Σ_m e_tm w_jm (``fusion.attention``). With δ the derivative by
the scores and E = δ / D, the gradient by the vectors z_m is (E diag(w_m M))ᵀ (e_m ⊙ U) + c_m k_mᵀ, where c_m collects
what the weights of modality m receive: of rank states + 1. So that of a projection P_m, z_m = X_m P_m, is a product of
matrices as narrow as a state or a feature, and no table of gradients is made of any user.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmfed.models.base import AttendedTables
from mmfed.training.rows import Parameters, RowTraining
from mmfed.training.target_gradients import OfSoftmax

LEAST = 1e-30  # of a divisor


class _Kept(NamedTuple):
    """Of a block of users.

    Attributes:
        of_bias: [users, items] gradients by the item bias.
        tables: by parameter, left [users, states, items], right [users, states, d] and c [users, items] of gradients
            leftᵀ right + c kᵀ, and k [d].
    """

    of_bias: Tensor
    tables: dict[str, tuple[Tensor, Tensor, Tensor, Tensor]]


class OfAttention(OfSoftmax):
    """Clipped sums for ``AttendedTables``.

    Args:
        training: the model and its parameters.
        tables: of the model.
    """

    def __init__(self, training: RowTraining, tables: AttendedTables) -> None:
        known = training.shared | training.rows
        super().__init__(training, len(tables.counts))
        self._positions = training.section.positions
        self._tables, self._bias = tables, known["item_bias"] * tables.bias
        self._query, self._key, self._missing = (
            known[name] for name in (tables.user_query, tables.item_query, tables.missing)
        )
        empty = (tables.counts[:, 0] == 0).to(self._bias.dtype)
        self._empty = empty if bool(empty.any()) else None
        self._projections = [None if one.values is None else known[one.parameter] for one in tables.modalities]
        self._read = [one.vectors if one.values is None else one.values for one in tables.modalities]
        self._scales = [tables.weights[:, at] * tables.counts[:, 0] for at in range(len(tables.modalities))]
        self._weighted = [one * scale[:, None] for one, scale in zip(self._read, self._scales, strict=True)]
        self._vectors = [
            one.vectors * scale[:, None] for one, scale in zip(tables.modalities, self._scales, strict=True)
        ]
        self._parts, self._divisors, self._plain, self._share = (self._bias.new_empty(0) for _ in range(4))
        self._kept: list[_Kept] = []
        self._of_bias = torch.zeros_like(self._bias, dtype=torch.float64)
        self._of_tables = {
            one.parameter: torch.zeros_like(one.vectors, dtype=torch.float64)
            for one in tables.modalities
            if one.values is None
        }

    @property
    def bytes_of_a_user(self) -> int:
        return max(len(self._of_tables), 1) * self._positions * self._bias.nbytes

    def bytes_of_scores(self, states: Tensor) -> int:
        return (len(self._read) + 2) * states.shape[1] * self._bias.nbytes

    def _forget(self) -> None:
        self._kept = []

    def _scored(self, states: Tensor) -> Tensor:
        own = states.flatten(0, 1)
        shape = (len(own), self._items)
        logits = own @ self._query.mT
        self._share = torch.exp(logits - logits.amax(1, keepdim=True)) if len(self._read) else logits
        self._parts = own.new_empty(len(self._read), *shape)
        for at, (vectors, weighted, projection) in enumerate(
            zip(self._vectors, self._weighted, self._projections, strict=True)
        ):
            query = own * self._share[:, at, None]
            if projection is None or projection.shape[0] > projection.shape[1]:
                torch.mm(query, vectors.T, out=self._parts[at])
            else:
                torch.mm(query @ projection.T, weighted.T, out=self._parts[at])
        above, self._divisors = self._parts.sum(0), self._share @ self._tables.weights.T
        if self._empty is not None:
            above += torch.outer(own @ self._missing, self._empty)
            self._divisors += self._empty
        self._plain = above.div_(self._divisors.clamp_min_(LEAST))
        scores = self._plain + self._bias
        if float(self._divisors.min()) <= LEAST:  # a divisor that was replaced has no derivative
            self._plain.masked_fill_(self._divisors <= LEAST, 0.0)
        return scores

    def _differentiated(self, states: Tensor, of_scores: Tensor) -> tuple[Tensor, Tensor, Parameters]:
        (users, count, _), own, share = states.shape, states.flatten(0, 1), self._share
        of_bias = of_scores.sum(1) * self._tables.bias
        squares = of_bias.square().sum(1, dtype=torch.float64)
        divided = of_scores.flatten(0, 1).div_(self._divisors)
        below = self._plain.mul_(divided)
        of_keys = self._parts.mul_(divided).view(-1, users, count, self._items).sum(2)  # c above, by modality
        of_divisors = torch.bmm(below.view(users, count, -1).mT, share.view(users, count, -1))
        of_shares = below @ self._tables.weights
        of_states, gradients, tables = torch.zeros_like(own), {}, {}
        queries, keys = [], []
        for at, (one, projection) in enumerate(zip(self._tables.modalities, self._projections, strict=True)):
            scaled = (own * share[:, at, None]).view_as(states)
            read = divided @ self._weighted[at]
            of_key = of_keys[at].sub_(of_divisors[:, :, at] * self._tables.weights[:, at])
            by_key = of_key @ self._read[at]
            through = read if projection is None else read @ projection
            of_share = share[:, at] * ((own * through).sum(1) - of_shares[:, at])
            of_states += share[:, at, None] * through + of_share[:, None] * self._query[at]
            queries.append(torch.bmm(of_share.view(users, 1, count), states))
            keys.append(by_key if projection is None else by_key @ projection)
            key = self._key[at]
            if projection is None:
                left = (divided * self._scales[at]).view(users, count, -1)
                tables[one.parameter] = left, scaled, of_key, key
                squares += _squares(left, scaled, of_key, key)
            else:
                gradients[one.parameter] = torch.bmm(read.view(users, count, -1).mT, scaled) + by_key[:, :, None] * key
        if self._read:
            gradients |= {self._tables.user_query: torch.cat(queries, 1), self._tables.item_query: torch.stack(keys, 1)}
        if self._empty is not None:
            read = divided @ self._empty
            of_states += torch.outer(read, self._missing)
            gradients[self._tables.missing] = torch.bmm(read.view(users, 1, count), states)[:, 0]
        self._kept.append(_Kept(of_bias, tables))
        return of_states.view_as(states), squares, gradients

    def add(self, factors: Tensor) -> None:
        for kept, share in zip(self._kept, factors.split([len(one.of_bias) for one in self._kept]), strict=True):
            self._of_bias += share @ kept.of_bias
            for name, (left, right, of_key, key) in kept.tables.items():
                summed = left.flatten(0, 1).T @ (right * share[:, None, None]).flatten(0, 1)
                self._of_tables[name] += summed.addr_(share @ of_key, key)

    def total(self) -> Parameters:
        return self._of_tables | {"item_bias": self._of_bias}


def _squares(left: Tensor, right: Tensor, of_key: Tensor, key: Tensor) -> Tensor:
    """[users] float64 squared norms of leftᵀ right + c kᵀ."""
    both = torch.bmm(left, left.mT).double() * torch.bmm(right, right.mT)
    mixed = torch.bmm(left, of_key[:, :, None])[:, :, 0].double() * (right @ key)
    return both.sum((1, 2)) + 2 * mixed.sum(1) + of_key.square().sum(1, dtype=torch.float64) * key.square().sum()
