"""Likelihood of generated texts under the language model that is the truth."""

from .nll_oracle import NLLOracle

__all__ = ["NLLOracle"]
