"""Gates and their priors as Pyro distributions. Nothing in here knows a network."""

from l0bayes.distributions import kl
from l0bayes.distributions.gate_prior import GatePrior
from l0bayes.distributions.hard_concrete import HardConcrete
from l0bayes.distributions.joint_prior import JointL0Prior
from l0bayes.distributions.l0_prior import L0Prior
from l0bayes.distributions.spike_and_slab_prior import SpikeAndSlabPrior

__all__ = ["GatePrior", "HardConcrete", "JointL0Prior", "L0Prior", "SpikeAndSlabPrior", "kl"]
