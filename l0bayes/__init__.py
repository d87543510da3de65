"""l0bayes: neural networks with spike-and-slab weights in Pyro.

A draw of the gates selects a subnetwork, and the library computes only that subnetwork: while training, when
predicting, and when the finished network is handed over. Models are in :mod:`l0bayes.models`, guides, ELBO and
training in :mod:`l0bayes.inference`.
"""

from l0bayes.distributions import HardConcrete, L0Prior, SpikeAndSlabPrior
from l0bayes.posterior import gate_table, to_arviz
from l0bayes.sparse_module import SparseModule
from l0bayes.sparsify import compact, sparsify

__all__ = [
    "HardConcrete",
    "L0Prior",
    "SparseModule",
    "SpikeAndSlabPrior",
    "compact",
    "gate_table",
    "sparsify",
    "to_arviz",
]
