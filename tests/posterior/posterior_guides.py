"""Guides with known gates, for the tests of tables, costs, exports and pictures."""

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from l0bayes import L0Prior, sparsify
from l0bayes.inference import HardConcreteGuide
from l0bayes.models import MLP, Classifier

SIZES = (4, 3, 2)
LOG_ALPHA = {"fc1.input": [-20.0, -2.3, 0.5, 20.0], "fc2.input": [-3.0, 0.0, 3.0]}


def classifier():
    """A network with gates on 4 inputs and 3 hidden units, and a guide at LOG_ALPHA."""
    model = Classifier(sparsify(MLP(*SIZES), torch.zeros(2, SIZES[0]), gates="input"), num_data=10)
    guide = HardConcreteGuide(model)
    with torch.no_grad():
        for site, values in LOG_ALPHA.items():
            guide.parameter(f"log_alpha.{site}").copy_(torch.tensor(values))
    return model, guide


def many_shapes() -> None:
    """A scalar gate, a matrix of gates, and weights that are no gates."""
    pyro.sample("z0", L0Prior(0.3))
    pyro.sample("z", L0Prior(0.3).expand([2, 3]).to_event(2))
    pyro.sample("w", dist.Normal(1.0, 0.5).expand([2, 3]).to_event(2))
    pyro.sample("scale", dist.LogNormal(0.0, 1.0))


def p_nonzero(log_alpha: Tensor) -> Tensor:
    """Eq. 12 of the paper with β = 2/3, γ = −0.1, ζ = 1.1."""
    return torch.sigmoid(log_alpha - 2 / 3 * math.log(0.1 / 1.1))
