"""Squared difference in pitch between generated and real melodies."""

from .mse_music import MSEMusic

__all__ = ["MSEMusic"]
