"""The granularity of dropout rates: 16 random bits decide about an element."""

LEVELS = 2**16
"""Rates are multiples of 1 / LEVELS: an element is dropped if its 16 random bits are below a threshold."""


def threshold_of(rate: float) -> int:
    """Returns a rate in multiples of 1 / LEVELS; under half of one it is 0, and dropout is off."""
    return min(round(rate * LEVELS), LEVELS - 1)
