"""BLEU of generated texts against each other."""

from .self_bleu import SelfBleu

__all__ = ["SelfBleu"]
