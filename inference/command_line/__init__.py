"""The command line ``l0bayes train``."""
