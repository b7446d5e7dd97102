"""Tracking: runs remembered in MLflow, written by the coordinating process alone."""
