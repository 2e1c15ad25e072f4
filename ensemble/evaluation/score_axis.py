"""Limits of an axis of scores from 0 to 1, for every figure that has one."""

LEAST_SPAN = 0.05
BEYOND = 0.01  # 0 and 1 themselves are seen


def score_limits(low: float, high: float) -> tuple[float, float]:
    """Limits that hold `low` to `high`, at least 0.05 apart so that noise looks like noise.

    Args:
        low: Lower limit that the data ask for.
        high: Upper limit that the data ask for.
    """
    lack = max(LEAST_SPAN - (high - low), 0) / 2
    low, high = low - lack, high + lack
    up, down = max(-BEYOND - low, 0), max(high - 1 - BEYOND, 0)
    return max(low - down, -BEYOND), min(high + up, 1 + BEYOND)
