"""Probabilistic graphical models: mixtures, random fields, Bayesian networks."""
