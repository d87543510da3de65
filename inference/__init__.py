"""Guides, ELBO, training, prediction, storage."""

from l0bayes.inference.batches import TensorBatches
from l0bayes.inference.elbo import ClosedFormKL_ELBO
from l0bayes.inference.evaluate import evaluate
from l0bayes.inference.fit import FitResult, fit
from l0bayes.inference.fit_options import FitOptions
from l0bayes.inference.hard_concrete_guide import HardConcreteGuide
from l0bayes.inference.inclusion import InclusionPosterior, infer_inclusion
from l0bayes.inference.parameter_groups import parameter_groups
from l0bayes.inference.predict import predict
from l0bayes.inference.processes import join_processes
from l0bayes.inference.shrink import shrink
from l0bayes.inference.storage import load, save
from l0bayes.inference.target import Target

__all__ = [
    "ClosedFormKL_ELBO",
    "FitOptions",
    "FitResult",
    "HardConcreteGuide",
    "InclusionPosterior",
    "Target",
    "TensorBatches",
    "evaluate",
    "fit",
    "infer_inclusion",
    "join_processes",
    "load",
    "parameter_groups",
    "predict",
    "save",
    "shrink",
]
