"""Backbones: an image becomes a pyramid of features with declared channels and strides."""
