"""Who took part? Attacks on released models by one who knows everybody's data, and by one who sees the last model only.

``inclusion_scores`` is the strongest here: the attacker knows every history and every released model, and lacks only
the coins. It is what a user-level guarantee is about. ``likelihood_ratios`` is LiRA (Carlini et al. 2022) on the loss
of the last model, with shadow runs in which other coins fell and other noise was drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from mmfed.federated.progress import chosen_model
from mmfed.records import read_lines
from mmfed.simulation.canary_run import AuditedRun, model_of, single_updates
from mmfed.training.batch import training_batch
from mmfed.training.objective import user_losses
from mmfed.types import FloatArray

_LOSS_ROUND = 2**20  # far from any real round: the loss is taken on draws that training did not use


def inclusion_scores(audited: AuditedRun) -> FloatArray:
    """[people] how far each person is in, by linear estimation; about 1 for "in", 0 for "out", 0.5 for no idea.

    With coins a and the updates u that each person would send in a round, planned · mean − Σ others = Σ a u + noise.
    The estimate is the posterior mean for Gaussian a of the coins' mean and variance: exact where noise is strong, and
    the plain solution where there is none. Where users are sampled, the attacker expects a share q of every update.
    """
    count = len(audited.people)
    gram, seen, noise = np.zeros((count, count)), np.zeros(count), []
    for at in audited.rounds:
        mine = audited.rate * single_updates(audited, at, audited.people)
        others = audited.rate * single_updates(audited, at, audited.others).sum(axis=0)
        divisor = audited.planned if audited.noise_multiplier is not None else _realised(audited, at.number)
        left = at.mean * divisor - others
        seen += mine @ left
        gram += mine @ mine.T
        noise.append(_variance_outside(mine, left))
    # A fair coin has variance 1/4. The noise is what the attacker sees of it, not what is claimed.
    ridge = max(4 * float(np.mean(noise)), 1e-9 * float(np.trace(gram)) / count + 1e-300)
    return 0.5 + np.linalg.solve(gram + ridge * np.eye(count), seen - 0.5 * gram.sum(axis=1))


def _variance_outside(updates: FloatArray, left: FloatArray) -> float:
    """Mean square of what no combination of the updates explains, per coordinate; 0 where they explain everything."""
    basis, strength, _ = np.linalg.svd(updates.T, full_matrices=False)
    basis = basis[:, strength > 1e-9 * max(float(strength.max(initial=0.0)), 1e-300)]
    free = len(left) - basis.shape[1]
    return float(np.square(left - basis @ (basis.T @ left)).sum()) / free if free > 0 else 0.0


def _realised(audited: AuditedRun, number: int) -> int:
    """Without privacy the mean is over those who took part, those who were out included (with nothing)."""
    return max(1, int(read_lines(audited.run.metrics)[number - 1]["realised"]))


def final_losses(audited: AuditedRun) -> FloatArray:
    """[people] loss of the last released model on each person's own history."""
    config, workspace = audited.config, audited.everyone
    model = model_of(workspace, _last(audited))
    histories = workspace.histories.take(audited.people)
    vectors = torch.zeros(len(histories), model.private_dimensions)
    batch = training_batch(
        histories,
        model=model,
        section=config.training,
        seed=0,  # the same draws for every run
        round_number=_LOSS_ROUND,
        step=0,
        user_vectors=vectors,
        dtype=next(model.parameters()).dtype,
    )
    with torch.no_grad():
        tables = model.item_tables(None)
        gathered = functional.embedding(batch.histories.items, tables.history)
        return user_losses(model, config.training, tables, gathered, batch).double().numpy()


def _last(audited: AuditedRun) -> dict[str, torch.Tensor]:
    """The model after the last round."""
    return chosen_model(audited.run, audited.config)[0]


def likelihood_ratios(target: FloatArray, shadows: Sequence[tuple[FloatArray, np.ndarray]]) -> FloatArray:
    """[people] log-likelihood ratio of "in" against "out" for the losses of the target run.

    Args:
        target: [people] losses under the target's last model.
        shadows: losses and coins of further runs on the same people.

    Gaussians per person with means from the shadow runs and one variance for all (LiRA with few shadows); a person
    whose coin fell one way in all shadows takes the mean shift of the others.
    """
    losses = np.stack([one for one, _ in shadows])
    coins = np.stack([np.asarray(one, dtype=bool) for _, one in shadows])
    with np.errstate(invalid="ignore", divide="ignore"):
        inside = (losses * coins).sum(0) / coins.sum(0)
        outside = (losses * ~coins).sum(0) / (~coins).sum(0)
    shift = np.nanmean(inside - outside) if np.isfinite(inside - outside).any() else 0.0
    inside = np.where(np.isfinite(inside), inside, outside + shift)
    outside = np.where(np.isfinite(outside), outside, inside - shift)
    spread = float(np.std(np.where(coins, losses - inside, losses - outside))) or 1e-12
    return ((target - outside) ** 2 - (target - inside) ** 2) / (2 * spread**2)
