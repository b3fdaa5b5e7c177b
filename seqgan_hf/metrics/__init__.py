"""`evaluate` modules for generated text: import the class, or hand the folder's path to `evaluate.load`."""

from .bleu import Bleu

__all__ = ["Bleu"]
