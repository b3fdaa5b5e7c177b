"""How many of the n-grams of generated texts are different ones."""

from .distinct_n import DistinctN

__all__ = ["DistinctN"]
