"""Encoder-decoder networks with skips."""
