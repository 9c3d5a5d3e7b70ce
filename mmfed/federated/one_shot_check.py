"""Whether a one-shot reply can be a sum of what honest devices send: a bound on its norm leaves room for other things.

Every honest co-occurrence has no negative entry and is positive semidefinite (powers of a decay by distance), so no
pair exceeds the geometric mean of its diagonal entries. Sums of such matrices are of the same kind. Without the check a
few devices with all their weight beside the diagonal make the sum indefinite, and the run stops or learns nonsense.
"""

from __future__ import annotations

import numpy as np

from mmfed.errors import ExitCode, MmfedError
from mmfed.types import FloatArray

_TOLERANCE = 1e-9


def check_one_shot_reply(name: str, vector: FloatArray, *, size: int) -> None:
    """Refuse a reply that its users cannot have made.

    Args:
        name: "popularity" or "cooccurrence", the latter packed as ``training.cooccurrence.packed``.
        vector: finite, of a norm that its users can make.
        size: items that were asked for.

    Raises:
        MmfedError: a negative entry, or a pair beyond its diagonal.
    """
    if vector.min(initial=0.0) < 0:
        raise MmfedError(ExitCode.FEDERATION, "negative counts, which no history makes", "update the node.")
    if name != "cooccurrence":
        return
    starts = np.cumsum(np.arange(size, 0, -1)) - np.arange(size, 0, -1)  # of each row of the upper triangle
    diagonal = np.sqrt(vector[starts])
    for row in range(size):
        pairs = vector[starts[row] + 1 : starts[row] + size - row]
        most = np.sqrt(2.0) * diagonal[row] * diagonal[row + 1 :]
        if (pairs > most * (1 + _TOLERANCE) + _TOLERANCE).any():
            raise MmfedError(
                ExitCode.FEDERATION, "pairs without their items, which no history makes", "update the node."
            )
