"""How far generated and real texts overlap in the space of an encoder."""

from .mauve import Mauve

__all__ = ["Mauve"]
