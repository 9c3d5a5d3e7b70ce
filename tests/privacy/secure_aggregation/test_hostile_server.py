"""A server, or a peer, that does not keep to the protocol is refused by every device, and learns nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from whole_round import Parties, context_of, identities, public, random_vectors

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.secure_aggregation.advertisement import Advertisement, advertise
from mmfed.privacy.secure_aggregation.answer import Answer
from mmfed.privacy.secure_aggregation.context import RoundContext
from mmfed.privacy.secure_aggregation.device import Device
from mmfed.privacy.secure_aggregation.key_agreement import public_of
from mmfed.privacy.secure_aggregation.roster import Roster
from mmfed.privacy.secure_aggregation.sealed_share import SealedShare

KEYS = identities(7)


def refused(match: str):
    return pytest.raises(MmfedError, match=match)


def shared(parties: Parties) -> dict[bytes, list[SealedShare]]:
    keys = parties.coordinator.advertised({p: d.advertise() for p, d in parties.devices.items()})
    return parties.coordinator.shared({p: d.share(keys) for p, d in parties.devices.items()})


def masked(parties: Parties, drop: int = 0) -> tuple[Device, tuple[bytes, ...]]:
    """One device before it agrees, and the survivors."""
    passed, vectors = shared(parties), random_vectors(parties)
    present = list(parties.devices)[: len(parties.devices) - drop]
    survivors = parties.coordinator.masked({p: parties.devices[p].mask(passed[p], vectors[p]) for p in present})
    return parties.devices[present[0]], survivors


def agreed(parties: Parties, drop: int = 0) -> tuple[Device, tuple[bytes, ...], dict[bytes, bytes]]:
    """One device before it answers, the survivors and their signatures."""
    first, survivors = masked(parties, drop)
    signatures = parties.coordinator.agreed({p: parties.devices[p].agree(survivors) for p in survivors})
    return first, survivors, signatures


def test_both_questions_about_one_party_are_refused() -> None:
    """Seed and mask key of one party together would bare its vector."""
    parties = Parties.of(KEYS)
    device, survivors, signatures = agreed(parties)
    with refused("both secrets") as fault:
        device.answer(survivors, (survivors[3],), signatures)
    assert fault.value.code == ExitCode.PRIVACY
    with refused("out of order"):  # nor one after the other
        device.answer(survivors, (), signatures)


def test_the_second_question_after_the_first_is_refused() -> None:
    parties = Parties.of(KEYS)
    device, survivors, signatures = agreed(parties, drop=1)
    device.answer(survivors, parties.coordinator.dropped, signatures)
    with refused("out of order"):
        device.answer(survivors[:-1], (*parties.coordinator.dropped, survivors[-1]), signatures)


def test_a_survivor_passed_off_as_dropped_is_refused() -> None:
    parties = Parties.of(KEYS)
    device, survivors, signatures = agreed(parties)
    with refused("other parties than those that were agreed on"):
        device.answer(survivors[:-1], survivors[-1:], signatures)


def test_devices_told_different_survivors_do_not_answer() -> None:
    """The consistency check: no two lists get enough signatures."""
    parties = Parties.of(KEYS)
    _, survivors = masked(parties)
    few, many = survivors[:5], survivors
    signatures = {p: parties.devices[p].agree(few if p in few[:3] else many) for p in survivors}
    for party, device in parties.devices.items():
        own = few if party in few[:3] else many
        fitting = {p: s for p, s in signatures.items() if (p in few[:3]) == (party in few[:3])}
        with refused("are needed"):
            device.answer(own, set(survivors) - set(own), fitting)


def test_a_signature_under_other_survivors_is_refused() -> None:
    parties = Parties.of(KEYS)
    _, survivors = masked(parties)
    signatures = {
        p: d.agree(survivors if place else survivors[:6]) for place, (p, d) in enumerate(parties.devices.items())
    }
    with refused("did not sign these survivors"):
        parties.devices[survivors[1]].answer(survivors, (), signatures)


def test_a_survivor_list_below_the_threshold_is_refused() -> None:
    device, survivors = masked(Parties.of(KEYS))
    with refused("4 parties .* survived; 5 parties"):
        device.agree(survivors[:4])


@pytest.mark.parametrize("kind", ["without me", "stranger", "twice"])
def test_a_survivor_list_that_does_not_fit_is_refused(kind: str) -> None:
    device, survivors = masked(Parties.of(KEYS))
    lists = {"without me": survivors[1:], "stranger": (*survivors, bytes(32))}
    if kind == "twice":
        device.agree(survivors)
        with refused("out of order"):
            device.agree(survivors[:-1])
        return
    with refused("do not fit"):
        device.agree(lists[kind])


def test_a_forged_key_is_refused() -> None:
    """The server puts its own keys in the place of a peer's: man in the middle."""
    parties = Parties.of(KEYS)
    keys = list(parties.coordinator.advertised({p: d.advertise() for p, d in parties.devices.items()}))
    keys[2] = replace(keys[2], mask_key=public_of(bytes([9]) * 32))
    with refused("forged"):
        parties.devices[keys[0].party].share(keys)


@pytest.mark.parametrize("change", [{"nonce": bytes([1]) * 16}, {"round_number": 2}, {"run_id": "other"}, {"bits": 21}])
def test_a_replayed_key_is_refused(change: dict) -> None:
    """A signed key of another round, run or attempt."""
    old, new = Parties.of(KEYS), Parties.of(KEYS, **change)
    replayed = next(iter(old.devices.values())).advertise()
    keys = [d.advertise() for d in new.devices.values()]
    with refused("forged, or of another round"):
        new.devices[keys[1].party].share([replayed, *keys[1:]])


def test_a_key_of_a_party_outside_the_roster_is_refused() -> None:
    """A server that invents peers to be alone with one device."""
    context = context_of(KEYS)
    with refused("not in this device's roster"):
        Device(KEYS[0], Roster.of(context.parties[:6]), context)


def test_a_device_outside_the_round_is_no_party() -> None:
    eight = identities(8)
    with refused("not a party of this round"):
        Device(eight[7], Roster.of(public(key) for key in eight), context_of(eight[:7]))


def test_own_keys_that_were_changed_or_left_out_are_noticed() -> None:
    for change in ("leave out", "replace"):
        parties = Parties.of(KEYS)
        keys = [d.advertise() for d in parties.devices.values()]
        device = parties.devices[keys[0].party]
        if change == "replace":
            again = advertise(
                KEYS[0], parties.context, sealing_key=public_of(bytes([7]) * 32), mask_key=public_of(bytes([8]) * 32),
                seed=bytes(32),
            )  # fmt: skip
        with refused("own keys"):
            device.share(keys[1:] if change == "leave out" else [again, *keys[1:]])


def test_one_key_for_two_parties_is_refused() -> None:
    parties = Parties.of(KEYS)
    keys = [d.advertise() for d in parties.devices.values()]
    same = advertise(
        KEYS[1], parties.context, sealing_key=keys[2].sealing_key, mask_key=keys[2].mask_key, seed=bytes(32)
    )
    with refused("named twice"):
        parties.devices[keys[0].party].share([keys[0], same, *keys[2:]])
    with refused("named twice"):
        parties.devices[keys[3].party].share([*keys, keys[2]])


def test_a_degenerate_key_is_refused() -> None:
    parties = Parties.of(KEYS)
    keys = [d.advertise() for d in parties.devices.values()]
    keys[1] = advertise(KEYS[1], parties.context, sealing_key=bytes(32), mask_key=keys[1].mask_key, seed=bytes(32))
    with refused("degenerate"):
        parties.devices[keys[0].party].share(keys)


def test_the_server_cannot_open_swap_or_change_a_share() -> None:
    for change in ("swapped", "changed", "stranger", "twice", "too few", "own"):
        parties = Parties.of(KEYS)
        passed, vectors = shared(parties), random_vectors(parties)
        first, second, *_ = parties.devices
        mine = passed[first]
        spoiled = {
            "swapped": [replace(mine[0], sealed=mine[1].sealed), *mine[1:]],
            "changed": [replace(mine[0], sealed=mine[0].sealed[:-1] + bytes([mine[0].sealed[-1] ^ 1])), *mine[1:]],
            "stranger": [*mine, replace(mine[0], sender=bytes(32))],
            "twice": [*mine, mine[0]],
            "too few": mine[:3],
            "own": [*mine, replace(mine[0], sender=first)],
        }[change]
        with refused("secure aggregation"):
            parties.devices[first].mask(spoiled, vectors[first])
        with refused("out of order"):
            parties.devices[first].mask(mine, vectors[first])
        with refused("does not open|somebody else"):
            parties.devices[second].mask([replace(s, receiver=second) for s in mine if s.sender != second] + [
                replace(passed[second][0])], vectors[second])  # fmt: skip


def test_one_vector_leaves_once() -> None:
    """Asked twice for the same round, a device would send the difference of two vectors under the same masks."""
    parties = Parties.of(KEYS)
    passed, vectors = shared(parties), random_vectors(parties)
    party, device = next(iter(parties.devices.items()))
    device.mask(passed[party], vectors[party])
    with refused("out of order"):
        device.mask(passed[party], -vectors[party])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"threshold": 4}, "above two thirds"),
        ({"threshold": 8}, "above two thirds"),
        ({"minimum_users": 8}, "cannot survive"),
        ({"minimum_users": 0}, "cannot survive"),
        ({"users": (1,) * 6}, "stands for no user"),
        ({"users": (0, *(1,) * 6)}, "stands for no user"),
        ({"nonce": b""}, "damaged"),
        ({"length": 0}, "damaged"),
        ({"bits": 63}, "modulus"),
        ({"parties": tuple(public(k) for k in reversed(KEYS))}, "ascending"),
        ({"parties": (public(KEYS[0]),) * 7}, "ascending"),
        ({"parties": tuple(public(k) for k in KEYS[:2]), "users": (1, 1), "threshold": 2}, "3 at least"),
    ],
)
def test_a_round_that_would_not_protect_is_refused(change: dict, said: str) -> None:
    with refused(said):
        context_of(KEYS, **change)


def test_a_cheating_share_is_found_out_and_the_sum_is_right() -> None:
    parties = Parties.of(identities(9))  # threshold 7: the two others are to spare
    vectors = random_vectors(parties)
    parties.until_answers(vectors, {"mask": (8,)})
    cheater = next(iter(parties.answers))
    honest = parties.answers[cheater]
    wrong = {party: bytes([0, *share[1:-1], share[-1] ^ 1]) for party, share in honest.seeds.items()}
    parties.answers[cheater] = Answer(wrong, honest.keys)
    total = parties.coordinator.answered(parties.answers)
    assert np.array_equal(total, sum(v for p, v in vectors.items() if p != list(vectors)[8]))
    assert set(parties.coordinator.refused) == {cheater}
    assert "wrong share" in parties.coordinator.refused[cheater]


def test_too_many_cheating_shares_release_nothing() -> None:
    parties = Parties.of(KEYS)  # threshold 5 of 7: three wrong shares leave four right ones
    parties.until_answers(random_vectors(parties), None)
    for party in list(parties.answers)[:3]:
        honest = parties.answers[party]
        parties.answers[party] = Answer({p: bytes([0, *s[1:-1], s[-1] ^ 1]) for p, s in honest.seeds.items()}, {})
    with refused("do not fit together; the round was given up and nothing was released"):
        parties.coordinator.answered(parties.answers)


def test_a_device_that_shares_one_secret_and_uses_another_is_found_out() -> None:
    """It advertised the commitment to another seed than the one whose shares it gave."""
    parties = Parties.of(KEYS)
    party, device = next(iter(parties.devices.items()))
    adverts = {p: d.advertise() for p, d in parties.devices.items()}
    device._held.seed = bytes(32).hex()
    keys = parties.coordinator.advertised(adverts)
    passed = parties.coordinator.shared({p: d.share(keys) for p, d in parties.devices.items()})
    vectors = random_vectors(parties)
    survivors = parties.coordinator.masked({p: d.mask(passed[p], vectors[p]) for p, d in parties.devices.items()})
    signatures = parties.coordinator.agreed({p: d.agree(survivors) for p, d in parties.devices.items()})
    answers = {p: d.answer(survivors, (), signatures) for p, d in parties.devices.items()}
    with refused(f"party {party.hex()[:12]}'s secret do not fit"):
        parties.coordinator.answered(answers)


def test_the_coordinator_leaves_out_replies_that_do_not_hold() -> None:
    parties = Parties.of(KEYS)
    order = list(parties.devices)
    adverts = {p: d.advertise() for p, d in parties.devices.items()}
    adverts[order[0]] = replace(adverts[order[0]], signature=bytes(64))
    keys = parties.coordinator.advertised(adverts)
    assert len(keys) == 6
    sealed = {p: parties.devices[p].share(keys) for p in order[1:]}
    sealed[order[1]] = sealed[order[1]][:-1]
    passed, vectors = parties.coordinator.shared(sealed), random_vectors(parties)
    masks = {p: parties.devices[p].mask(passed[p], vectors[p]) for p in order[2:]}
    survivors = parties.coordinator.masked({**masks, order[1]: masks[order[2]], order[0]: b"short"})
    assert survivors == tuple(order[2:])
    signatures = parties.coordinator.agreed({p: parties.devices[p].agree(survivors) for p in survivors})
    answers = {p: parties.devices[p].answer(survivors, (), signatures) for p in survivors}
    total = parties.coordinator.answered(answers)
    assert np.array_equal(total, sum(vectors[p] for p in order[2:]))
    assert set(parties.coordinator.refused) == set(order[:2])
    with refused("no further step"):
        parties.coordinator.answered(answers)


@pytest.mark.parametrize("plain", [{}, {"run": 1}, {"parties": ["zz"]}, {"nonce": None}])
def test_a_damaged_description_is_refused(plain: dict) -> None:
    whole = {} if not plain else context_of(KEYS).to_plain()
    with refused("damaged|ascending"):
        RoundContext.from_plain({k: v for k, v in (whole | plain).items() if plain.get(k, "") != 1})


def test_messages_survive_the_wire_and_damaged_ones_do_not() -> None:
    parties = Parties.of(KEYS[:3])
    device = next(iter(parties.devices.values()))
    found = device.advertise()
    assert Advertisement.from_bytes(found.to_bytes()) == found
    assert RoundContext.from_plain(parties.context.to_plain()) == parties.context
    for data in (b"", found.to_bytes() + b"x"):
        with refused("bytes instead of"):
            Advertisement.from_bytes(data)
        with refused("bytes instead of"):
            SealedShare.from_bytes(data)
    for data in (b"x", bytes(65) * 2, bytes(32) + b"\xff" * 33):
        with refused("not one share"):
            Answer.from_bytes(data, b"")
    answer = Answer({bytes(32): bytes(33), bytes([1]) * 32: bytes(33)}, {})
    assert Answer.from_bytes(*answer.to_bytes()) == answer
