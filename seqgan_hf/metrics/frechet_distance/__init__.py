"""Distance of generated from real texts in the space of an encoder."""

from .frechet_distance import FrechetDistance

__all__ = ["FrechetDistance"]
