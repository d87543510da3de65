"""Guides, ELBO, training, prediction, storage."""

from l0bayes.inference.callbacks.callback import Callback, Run
from l0bayes.inference.callbacks.live_figure import LiveFigure
from l0bayes.inference.callbacks.tensorboard import TensorBoard
from l0bayes.inference.data.batches import TensorBatches
from l0bayes.inference.guide.hard_concrete_guide import HardConcreteGuide
from l0bayes.inference.objective.elbo import ClosedFormKL_ELBO
from l0bayes.inference.prediction.evaluate import evaluate
from l0bayes.inference.prediction.predict import predict
from l0bayes.inference.regression.inclusion import infer_inclusion
from l0bayes.inference.regression.inclusion_posterior import InclusionPosterior
from l0bayes.inference.size.shrink import shrink
from l0bayes.inference.size.target import Target
from l0bayes.inference.storage.save_load import load, save
from l0bayes.inference.system.processes import join_processes
from l0bayes.inference.training.fit import FitResult, fit
from l0bayes.inference.training.fit_options import FitOptions
from l0bayes.inference.training.parameter_groups import parameter_groups

__all__ = [
    "Callback",
    "ClosedFormKL_ELBO",
    "FitOptions",
    "FitResult",
    "HardConcreteGuide",
    "InclusionPosterior",
    "LiveFigure",
    "Run",
    "Target",
    "TensorBatches",
    "TensorBoard",
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
