"""k, l and t by the definitions, in plain Python and SciPy: shares nothing with the code it judges."""

import math
from collections import Counter, defaultdict

from scipy.stats import wasserstein_distance


def measures(rows):
    """(k, distinct l, entropy l, t) of rows (quasi tuple, sensitive value)."""
    classes = defaultdict(list)
    for quasi, value in rows:
        classes[quasi].append(value)
    everyone = [value for _, value in rows]
    return (
        min(map(len, classes.values())),
        min(len(set(values)) for values in classes.values()),
        min(entropy_l(values) for values in classes.values()),
        max(distance(values, everyone) for values in classes.values()),
    )


def entropy_l(values):
    """Inverse of the geometric mean of the share of each person's value."""
    shares = Counter(values)
    return math.prod((len(values) / shares[value]) ** (1 / len(values)) for value in values)


def distance(values, everyone):
    """Earth mover's distance: ordered for numbers, equal for labels."""
    domain = sorted(set(everyone))
    if isinstance(domain[0], (int, float)):
        rank = domain.index
        apart = wasserstein_distance([rank(one) for one in values], [rank(one) for one in everyone])
        return apart / max(1, len(domain) - 1)
    return sum(max(0.0, values.count(label) / len(values) - everyone.count(label) / len(everyone)) for label in domain)


def meets(rows, *, k, distinct_l, entropy_l, t):
    """Whether the rows meet the demands; an empty table meets none."""
    if not rows:
        return False
    size, distinct, entropy, apart = measures(rows)
    return size >= k and distinct >= distinct_l and entropy >= entropy_l - 1e-8 and apart <= t + 1e-8
