import pytest
from ledger_builder import make_event, make_header

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.budget import Budget
from mmfed.privacy.calibration import noise_multiplier_for
from mmfed.privacy.ledger import Ledger


@pytest.mark.parametrize(("sampling", "rate"), [("full", 1.0), ("poisson", 0.2)])
def test_planned_rounds_fit_exactly_and_one_more_is_refused(tmp_path, key, sampling, rate):
    header = make_header(target_epsilon=2.0)
    sigma = noise_multiplier_for(epsilon=2.0, delta=header.delta, sampling=sampling, sampling_rate=rate, rounds=5)
    with Ledger.create(tmp_path / "l", header, key) as ledger:
        budget = Budget(target_epsilon=2.0, ledger=ledger)
        for number in range(5):
            event = make_event(number, noise_multiplier=sigma, sampling=sampling, sampling_rate=rate)
            after = budget.admit(event.release(), round_number=number)
            ledger.charge(event)
            assert ledger.spent() == after
        assert 1.998 <= ledger.spent().value <= 2.0
        assert budget.remaining() == pytest.approx(2.0 - ledger.spent().value)
        spent, lines = ledger.spent(), len(ledger.events)
        event = make_event(5, noise_multiplier=sigma, sampling=sampling, sampling_rate=rate)
        with pytest.raises(MmfedError, match="round 5: budget exhausted") as caught:
            budget.admit(event.release(), round_number=5)
        assert caught.value.code == ExitCode.PRIVACY
        assert ledger.spent() == spent
        assert len(ledger.events) == lines + 1
        assert ledger.events[-1].kind == "refusal"
        assert ledger.events[-1].body["round"] == 5


def test_a_refused_release_does_not_block_a_cheaper_one(tmp_path, key):
    with Ledger.create(tmp_path / "l", make_header(target_epsilon=1.0), key) as ledger:
        budget = Budget(target_epsilon=1.0, ledger=ledger, by="device")
        with pytest.raises(MmfedError):
            budget.admit(make_event(0, noise_multiplier=0.5).release())
        assert ledger.events[-1].body["by"] == "device"
        budget.admit(make_event(0, noise_multiplier=50.0).release())


def test_admit_charges_nothing(tmp_path, key):
    with Ledger.create(tmp_path / "l", make_header(), key) as ledger:
        budget = Budget(target_epsilon=8.0, ledger=ledger)
        for _ in range(5):
            budget.admit(make_event(0).release())
        assert ledger.spent().value == 0
        assert budget.remaining() == 8.0


@pytest.mark.parametrize("target", [0, -1.0, float("nan"), float("inf")])
def test_target_is_checked(tmp_path, key, target):
    with Ledger.create(tmp_path / "l", make_header(), key) as ledger, pytest.raises(MmfedError, match="target_epsilon"):
        Budget(target_epsilon=target, ledger=ledger)


def test_the_target_is_not_stretched(tmp_path, key):
    event = make_event(0)
    with Ledger.create(tmp_path / "l", make_header(), key) as ledger:
        needed = ledger.accountant.epsilon_after(event.release()).value
        Budget(target_epsilon=needed * (1 + 1e-9), ledger=ledger).admit(event.release())
        with pytest.raises(MmfedError, match="budget exhausted"):
            Budget(target_epsilon=needed * (1 - 1e-6), ledger=ledger).admit(event.release())
