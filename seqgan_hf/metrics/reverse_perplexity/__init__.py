"""Perplexity of real text under a language model of generated texts."""

from .reverse_perplexity import ReversePerplexity

__all__ = ["ReversePerplexity"]
