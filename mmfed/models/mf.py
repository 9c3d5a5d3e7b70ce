"""``mf``: multimodal matrix factorisation (article: F=[I;T;P], r̂ = σ(F · R))."""

from __future__ import annotations

from mmfed.models.tower import TowerRecommender


class MatrixFactorisation(TowerRecommender):
    """A linear map of the concatenated features, dot product with the user, biases.

    The article's R embeds user ids; here the user's row is pooled from the own history (``private_user_vector`` adds
    the article's free vector, which then stays on the device).
    """

    linear = True
    batched = True
