"""Posterior inclusion probabilities of regressions."""
