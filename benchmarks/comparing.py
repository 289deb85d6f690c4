"""What several runs say together: medians, ratios of runs that were beside each other, quantiles."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

__all__ = ["median_ratio", "quantile"]


def quantile(values: Sequence[float], part: float) -> float:
    """Return the smallest value that at least this part of all does not exceed; 0 for none."""
    if not values:
        return 0.0
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the ratios of each pair of runs; runs of one pair were one after the other.

    What slows down the machine for a while slows down both of a pair, and leaves their ratio as it is.
    """
    return statistics.median(our / their if their else math.inf for our, their in zip(ours, theirs, strict=True))
