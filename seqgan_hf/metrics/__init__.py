"""`evaluate` modules for generated text: import the class, or hand the folder's path to `evaluate.load`."""

from .bleu import Bleu
from .distinct_n import DistinctN
from .novelty import Novelty
from .self_bleu import SelfBleu

__all__ = ["Bleu", "DistinctN", "Novelty", "SelfBleu"]
