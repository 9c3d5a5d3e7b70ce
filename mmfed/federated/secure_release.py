"""From the sum that secure aggregation gives to the mean that may be used: the charge stands between them."""

from __future__ import annotations

from mmfed.config import Config
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated.release import Release
from mmfed.privacy.budget_lines import admit
from mmfed.privacy.distributed import DistributedNoise
from mmfed.privacy.events import result_hash
from mmfed.privacy.ledger import Ledger
from mmfed.privacy.skellam_event import SkellamEvent
from mmfed.types import FloatArray, IntArray


class SecureRelease(Release):
    """Mode ``user-distributed``: the devices added the noise; the coordinator decodes, charges and divides.

    Args:
        config: of the run.
        noise: of every round.
        ledger: the coordinator's.
    """

    def __init__(self, config: Config, noise: DistributedNoise, ledger: Ledger) -> None:
        super().__init__(config, ledger, noise.noise_multiplier, planned_cohort=noise.cohort)
        self.noise = noise
        self._charges = ledger

    def admit(self, round_number: int) -> None:
        """Refuse a round before devices are asked, when its charge would pass the target or the bound of its line.

        A round charged before (the run was killed and repeats it) is let through: ``decoded`` compares the result.

        Raises:
            MmfedError: the budget is exhausted; the refusal is written down.
        """
        if any(line.kind == "release" and line.body["round"] == round_number for line in self._charges.events):
            return
        admit(self._charges, [self._event(round_number, self.noise.cohort, "0" * 64)], self._lines)
        if self._budget is not None:
            self._budget.admit(self.noise.release(), round_number=round_number)

    def _event(self, round_number: int, users: int, result: str) -> SkellamEvent:
        return SkellamEvent.of(self.noise, round_number=round_number, digest=result, users=users)

    def decoded(self, total: IntArray, *, run_id: str, round_number: int, users: int) -> FloatArray:
        """[dimension] the noised sum over the *planned* cohort, charged before it is used.

        Args:
            total: [width] the sum modulo 2^bits, as signed integers.
            users: in the sum.

        Raises:
            MmfedError: too few users, the budget is exhausted, or the charge cannot be made durable.
        """
        noise = self.noise
        if users < noise.minimum:
            raise MmfedError(
                ExitCode.PRIVACY,
                f"round {round_number}: {users} users of the {noise.minimum} needed; nothing was released.",
                "continue with --resume when more devices are there, or lower privacy.minimum_survivors.",
            )
        mean = noise.decode(total, run_id=run_id, round_number=round_number) / noise.cohort
        self._charge(self._event(round_number, users, result_hash(mean)))
        return mean
