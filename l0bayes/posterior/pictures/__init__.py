"""Pictures of gates, of training, and of what comes out of both. Each takes an ``ax`` and returns it."""

from l0bayes.posterior.pictures.agreement import plot_agreement
from l0bayes.posterior.pictures.filters import plot_filters
from l0bayes.posterior.pictures.frontier import plot_frontier
from l0bayes.posterior.pictures.gates import gates_figure, plot_gate_image, plot_gate_probabilities
from l0bayes.posterior.pictures.inclusion import plot_inclusion, plot_inclusion_agreement
from l0bayes.posterior.pictures.model_size import plot_model_size
from l0bayes.posterior.pictures.model_space import plot_model_space
from l0bayes.posterior.pictures.training import (
    plot_training,
    plot_training_cost,
    plot_training_size,
    training_figure,
)

__all__ = [
    "gates_figure",
    "plot_agreement",
    "plot_filters",
    "plot_frontier",
    "plot_gate_image",
    "plot_gate_probabilities",
    "plot_inclusion",
    "plot_inclusion_agreement",
    "plot_model_size",
    "plot_model_space",
    "plot_training",
    "plot_training_cost",
    "plot_training_size",
    "training_figure",
]
