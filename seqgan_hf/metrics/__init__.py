"""`evaluate` modules for generated text: import the class, or hand the folder's path to `evaluate.load`."""

from .bleu import Bleu
from .distinct_n import DistinctN
from .frechet_distance import FrechetDistance
from .mauve import Mauve
from .mse_music import MSEMusic
from .nll_oracle import NLLOracle
from .novelty import Novelty
from .reverse_perplexity import ReversePerplexity
from .self_bleu import SelfBleu

__all__ = [
    "Bleu",
    "DistinctN",
    "FrechetDistance",
    "MSEMusic",
    "Mauve",
    "NLLOracle",
    "Novelty",
    "ReversePerplexity",
    "SelfBleu",
]
