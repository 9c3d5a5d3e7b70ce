"""What a device refuses in mode ``user-distributed``, whoever asks; messages go to the real ClientApp."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from federation import device
from flwr.app import ConfigRecord, RecordDict

from mmfed.federated import secure_messages as messages
from mmfed.federated import tasks, wire
from mmfed.federated.secure_terms import round_noise
from mmfed.federated.workspace import load_workspace
from mmfed.privacy.keys import load_or_create_key
from mmfed.privacy.secure_aggregation.advertisement import Advertisement
from mmfed.privacy.secure_aggregation.context import RoundContext, least_threshold
from mmfed.privacy.secure_aggregation.device import Device
from mmfed.privacy.secure_aggregation.roster import Roster

MODE = ("training.pretraining=0", "privacy.mode=user-distributed", "privacy.noise_source=csprng")


class Round:
    """A real device (user 0 of 12) and eleven peers that keep to the protocol, as a coordinator sees them."""

    def __init__(self, config, folder, **settings: str) -> None:
        self.workspace = load_workspace(config)
        self.folder = folder / "run-1" / "node-0-of-12"
        self.answer = device(config, folder, partition=0, partitions=12, **settings)
        model = self.workspace.new_model()
        self.shapes = wire.shared_shapes(model)
        self.arrays = wire.encode(model.shared_parameters(), self.shapes)
        self.task = tasks.Task(
            config=config,
            run_id="run-1",
            population=12,
            noise_multiplier=1.0,
            catalogue=self.workspace.features.digest,
            round_number=1,
            users=self.workspace.user_keys[:1],
        )
        self.keys = [Ed25519PrivateKey.from_private_bytes(bytes([place + 1]) * 32) for place in range(11)]

    def say(self, kind: str, arrays=None, task: tasks.Task | None = None, **fields) -> RecordDict:
        reply = self.answer(
            messages.asking(task or self.task, {n.replace("_", "-"): v for n, v in fields.items()}, arrays), kind
        )
        if reply.has_error():
            raise RefusalError(reply.error.reason)
        return reply.content

    def enrol(self, roster: list[bytes] | None = None) -> None:
        (self.own,) = messages.fields_of(self.say(messages.JOIN), "identity")
        public = [key.public_key().public_bytes_raw() for key in self.keys]
        self.roster = sorted([self.own, *public]) if roster is None else roster
        self.say(messages.PIN, roster=self.roster)

    def context(self, **changes) -> RoundContext:
        noise = round_noise(self.task.config, self.shapes, population=12, noise_multiplier=1.0)
        whole = {
            "run_id": "run-1",
            "round_number": 1,
            "nonce": bytes(16),
            "parties": tuple(self.roster),
            "users": (1,) * 12,
            "threshold": least_threshold(12),
            "minimum_users": noise.minimum,
            "bits": noise.bits,
            "length": noise.width,
            "terms": noise.terms(),
        }
        return RoundContext(**{**whole, **changes})

    def until_masked(self, task: tasks.Task | None = None) -> tuple[RoundContext, dict[bytes, Device], bytes]:
        """Three steps with honest peers: the context, the peers, and the device's masked vector."""
        context = self.context()
        peers = {k.public_key().public_bytes_raw(): Device(k, Roster.of(self.roster), context) for k in self.keys}
        (own,) = messages.fields_of(
            self.say(messages.ADVERTISE, context=messages.context_bytes(context)), "advertisement"
        )
        keys = [Advertisement.from_bytes(own), *(peer.advertise() for peer in peers.values())]
        self.say(messages.SHARE, round=context.digest, advertisements=[key.to_bytes() for key in keys])
        to_own = [s.to_bytes() for peer in peers.values() for s in peer.share(keys) if s.receiver == self.own]
        self.mask = {"round": context.digest, "shares": to_own}
        (vector,) = messages.fields_of(self.say(messages.MASK, self.arrays, task, **self.mask), "vector")
        return context, peers, vector


class RefusalError(Exception):
    """The one line a device answered."""


@pytest.fixture
def met(configured, tmp_path):
    def make(*more: str, **settings: str) -> Round:
        return Round(configured(*MODE, *more), tmp_path / "state", **settings)

    return make


def test_the_honest_round_is_answered(met):
    one = met()
    one.enrol()
    context, _, vector = one.until_masked()
    assert len(vector) == context.ring.size(context.length)
    parties = context.parties
    (signature,) = messages.fields_of(
        one.say(messages.AGREE, round=context.digest, survivors=list(parties)), "signature"
    )
    assert len(signature) == 64


def test_both_questions_and_a_step_twice_are_refused(met):
    one = met()
    one.enrol()
    context, _, _ = one.until_masked()
    with pytest.raises(RefusalError, match="out of order"):
        one.say(messages.MASK, one.arrays, **one.mask)
    with pytest.raises(RefusalError, match="out of order"):  # a refused device has left the round
        one.say(messages.AGREE, round=context.digest, survivors=list(context.parties))
    two = met()
    two.enrol()
    context, peers, _ = two.until_masked()
    everyone = list(context.parties)
    two.say(messages.AGREE, round=context.digest, survivors=everyone)
    question = {"seeds_of": everyone, "keys_of": [next(iter(peers))], "signatures": []}
    with pytest.raises(RefusalError, match="both secrets"):
        two.say(messages.ANSWER, round=context.digest, **question)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"run_id": "run-2"}, "run is not what"),
        ({"round_number": 2}, "round number is not what"),
        ({"terms": "{}"}, "terms of the noise"),
        ({"minimum_users": 5}, "least survivors"),
        ({"bits": 12}, "size of the vector"),
        ({"length": 10}, "size of the vector"),
        ({"users": (2,) * 12}, "users on this node"),
        ({"threshold": 6}, "not above two thirds"),
    ],
)
def test_a_round_with_other_terms_is_refused(met, changes, said):
    """Less noise, fewer survivors, another modulus: the device computes what the round should be, and compares."""
    one = met()
    one.enrol()
    described = one.context().to_plain()
    named = {"run_id": "run", "round_number": "round"}
    described |= {named.get(name, name): list(v) if isinstance(v, tuple) else v for name, v in changes.items()}
    with pytest.raises(RefusalError, match=said):
        one.say(messages.ADVERTISE, context=json.dumps(described, sort_keys=True).encode())


@pytest.mark.parametrize("change", [{"noise_multiplier": 0.1}, {"population": 24}, {"round_number": 2}])
def test_terms_may_not_change_between_the_steps(met, change):
    """Less noise asked for once the shares are given."""
    one = met()
    one.enrol()
    with pytest.raises(RefusalError, match="is not what this device computes"):
        one.until_masked(replace(one.task, **change))


def test_a_peer_outside_the_pinned_roster_is_refused(met):
    one = met()
    one.enrol()
    stranger = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    one.roster = sorted([stranger, *(key for key in one.roster if key != one.roster[0] or key == one.own)])[:12]
    if one.own not in one.roster:
        one.roster = sorted([one.own, *one.roster[:-1]])
    with pytest.raises(RefusalError, match="roster"):
        one.say(messages.ADVERTISE, context=messages.context_bytes(one.context()))


def test_a_roster_is_pinned_once(met):
    one = met()
    one.enrol()
    one.say(messages.PIN, roster=one.roster)
    with pytest.raises(RefusalError, match="differs from the one pinned"):
        one.say(messages.PIN, roster=[*one.roster, bytes(32)])


def test_a_roster_of_the_owner_holds_against_the_coordinator(met, tmp_path):
    """The device's own setting: the coordinator can offer no other peers."""
    path = tmp_path / "roster.txt"
    own = load_or_create_key(tmp_path / "state" / "run-1" / "node-0-of-12" / "key.pem").public_key().public_bytes_raw()
    one = met(roster=str(path))
    known = [own, *(key.public_key().public_bytes_raw() for key in one.keys)]
    path.write_text("\n".join(key.hex() for key in known))
    one.enrol()
    with pytest.raises(RefusalError, match="differs from the one pinned"):
        one.say(messages.PIN, roster=[*one.roster, bytes(32)])
    path.write_text("not a key")
    with pytest.raises(RefusalError, match="not a roster"):
        one.say(messages.PIN, roster=one.roster)


def test_no_step_without_a_round(met):
    one = met()
    one.enrol()
    for kind in (messages.SHARE, messages.MASK, messages.AGREE, messages.ANSWER):
        names = ("advertisements", "shares", "survivors", "seeds-of", "keys-of", "signatures")
        fields: dict = {name: [] for name in names}
        with pytest.raises(RefusalError, match="not in that round"):
            one.say(kind, one.arrays, round=bytes(32), **fields)


def test_foreign_messages_are_refused(met):
    one = met()
    one.enrol()
    for record in (RecordDict(), RecordDict({"secure": ConfigRecord({"context": 5})})):
        content = tasks.task_content(one.task)
        for name, value in record.items():
            content[name] = value
        reply = one.answer(content, messages.ADVERTISE)
        assert reply.has_error()
        assert "not a step of secure aggregation" in reply.error.reason


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("privacy.masks=skipped",), "leave out the masks"),
        (("privacy.noise_source=seeded",), "noise from a seed it knows"),
    ],
)
def test_a_real_device_refuses_simulated_protection(configured, tmp_path, shop_folder, more, said):
    """A device with data of its own neither leaves out the masks nor draws noise the coordinator could subtract."""
    one = Round(
        configured(*MODE, *more), tmp_path / "state", **{"data-dir": str(shop_folder / "shop"), "vault": "none"}
    )
    for kind in (messages.JOIN, messages.UNMASKED, messages.ADVERTISE):
        with pytest.raises(RefusalError, match=said):
            one.say(kind, one.arrays, context=b"")


@pytest.mark.parametrize("kind", [tasks.TRAIN, tasks.ONE_SHOT])
def test_no_update_leaves_in_the_clear(met, kind):
    """The messages of the other modes, sent in a run of this one."""
    one = met()
    reply = one.answer(tasks.task_content(one.task, one.arrays), kind)
    assert reply.has_error()
    assert "in the clear" in reply.error.reason or "one_shot" in reply.error.reason


def test_masks_are_not_left_out_unless_the_scenario_says_so(met):
    with pytest.raises(RefusalError, match="vector without masks"):
        met().say(messages.UNMASKED, met().arrays)


def test_one_message_for_a_user_who_is_not_here(met):
    one = met()
    one.enrol()
    stranger = replace(one.task, users=np.array([7], dtype=np.uint64))
    context = one.context()
    one.say(messages.ADVERTISE, context=messages.context_bytes(context))
    with pytest.raises(RefusalError):
        one.say(messages.MASK, one.arrays, task=stranger, round=context.digest, shares=[])
