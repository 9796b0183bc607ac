"""Emotion-aware vision-language pre-training in JAX: emotion seen becomes emotion said."""

__version__ = "0.2.0"
