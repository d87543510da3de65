"""l0bayes: neural networks with spike-and-slab weights in Pyro."""

from l0bayes.distributions import HardConcrete, L0Prior, SpikeAndSlabPrior

__all__ = ["HardConcrete", "L0Prior", "SpikeAndSlabPrior"]
