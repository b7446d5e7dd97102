"""Cuts and walks on the graph of neighbouring voxels."""
