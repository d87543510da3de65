"""Networks and likelihoods for use with l0bayes. Imports l0bayes, never l0bayes.inference."""

from l0bayes.models.exact_posterior import exact_inclusion, exact_posterior
from l0bayes.models.formula import Formula, read_formula
from l0bayes.models.lenet5 import LeNet5
from l0bayes.models.likelihood import Classifier, Regressor
from l0bayes.models.mlp import MLP
from l0bayes.models.own_loss import LossLikelihood
from l0bayes.models.spike_slab_regression import SpikeSlabRegression
from l0bayes.models.wide_resnet import WideResNet

__all__ = [
    "MLP",
    "Classifier",
    "Formula",
    "LeNet5",
    "LossLikelihood",
    "Regressor",
    "SpikeSlabRegression",
    "WideResNet",
    "exact_inclusion",
    "exact_posterior",
    "read_formula",
]
