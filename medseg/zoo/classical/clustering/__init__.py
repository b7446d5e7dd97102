"""Grouping of voxels by likeness, and superpixels."""
