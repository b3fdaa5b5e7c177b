"""`evaluate` modules for generated text: import the class, or hand the folder's path to `evaluate.load`."""

from .bleu import Bleu
from .distinct_n import DistinctN
from .frechet_distance import FrechetDistance
from .nll_oracle import NLLOracle
from .novelty import Novelty
from .self_bleu import SelfBleu

__all__ = ["Bleu", "DistinctN", "FrechetDistance", "NLLOracle", "Novelty", "SelfBleu"]
