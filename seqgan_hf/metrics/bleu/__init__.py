"""BLEU of generated text against a whole corpus."""

from .bleu import Bleu

__all__ = ["Bleu"]
