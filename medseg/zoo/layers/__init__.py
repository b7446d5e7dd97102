"""Blocks that several papers share, each once, for planes and volumes."""
