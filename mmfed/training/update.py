"""What local training is asked for and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mmfed.config import PrivacySection, TrainingSection


@dataclass(frozen=True, kw_only=True)
class LocalWork:
    """One round of work for a set of users.

    Attributes:
        training: steps, objective and step sizes.
        privacy: mode and clip norm.
        seed: of the run.
        round_number: 1-based.
        first_step: number of the first local step; the draws of a step depend on it.
        norm_bound: bound on the norm of one user's whole update where privacy asks for none; None for no bound.
        norm_guard: added to a user's norm before the clip norm is divided by it.
    """

    training: TrainingSection
    privacy: PrivacySection
    seed: int
    round_number: int
    first_step: int = 0
    norm_bound: float | None = None
    norm_guard: float = 0.0

    @property
    def clip_norm(self) -> float | None:
        """Bound on the L2 norm of one user's whole update; None where users are not clipped."""
        whole = self.privacy.mode in ("user-central", "user-distributed", "user-ftrl")
        if self.privacy.mode == "none":
            return self.norm_bound
        return self.privacy.clip_norm if whole else None

    @property
    def task_clip_norm(self) -> float | None:
        """Bound on the L2 norm of the learning rate times the gradient of one task in one step; None for no bound."""
        return self.privacy.task_clip_norm if self.privacy.mode == "user-central" else None


@dataclass(frozen=True, eq=False)
class CohortUpdate:
    """Sum over users of their (clipped) updates to the shared parameters; nothing per user leaves training.

    Attributes:
        total: float64 tensor per shared parameter.
        realised: how many users are in the sum.
        user_vectors: [users, p] the new private vectors, for the device store only.
        within: users whose change was within the clip norm before clipping; 0 where users are not clipped.
    """

    total: dict[str, Tensor]
    realised: int
    user_vectors: Tensor
    within: int = 0
