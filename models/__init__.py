"""Networks and likelihoods for use with l0bayes. Imports l0bayes, never l0bayes.inference."""

from l0bayes.models.likelihood import Classifier, Regressor
from l0bayes.models.mlp import MLP

__all__ = ["MLP", "Classifier", "Regressor"]
