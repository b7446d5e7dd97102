"""Dilated convolutions and the DeepLab family."""
