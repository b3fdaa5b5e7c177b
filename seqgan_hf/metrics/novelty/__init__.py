"""How much of generated texts does not stand in the training texts."""

from .novelty import Novelty

__all__ = ["Novelty"]
