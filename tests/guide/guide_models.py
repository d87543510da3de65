"""Models the tests of guide and ELBO share."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from l0bayes import L0Prior, SpikeAndSlabPrior, sparsify
from l0bayes.inference import HardConcreteGuide
from l0bayes.models import MLP, Classifier

SIZES = (6, 5, 4, 3)
NUM_DATA = 200


def classifier(**options) -> Classifier:
    """A small gated network; inputs and both hidden layers have gates."""
    options = {"code_cost": 0.1, "gates": "input"} | options
    return Classifier(sparsify(MLP(*SIZES), torch.zeros(2, SIZES[0]), **options), NUM_DATA)


def batch(size: int = 16) -> tuple[Tensor, Tensor]:
    return torch.randn(size, SIZES[0]), torch.randint(0, SIZES[-1], (size,))


def spread(guide: HardConcreteGuide) -> HardConcreteGuide:
    """Moves the gates to a mix of nearly closed, half open and nearly open."""
    with torch.no_grad():
        for name, parameter in guide.named_parameters():
            if name.startswith("log_alpha"):
                parameter.copy_(torch.linspace(-3, 3, parameter.numel()).reshape(parameter.shape))
    return guide


def regression(x: Tensor, y: Tensor | None = None, subsample_size: int | None = None) -> Tensor:
    """Spike-and-slab regression as a Pyro user writes it."""
    features = x.shape[1]
    z = pyro.sample("z", SpikeAndSlabPrior(0.5).expand([features]).to_event(1))
    w = pyro.sample("w", dist.Normal(0.0, 5.0).expand([features]).to_event(1))
    with pyro.plate("data", len(x), subsample_size=subsample_size) as index:
        target = None if y is None else y[index]
        return pyro.sample("y", dist.Normal(x[index] @ (z * w), 0.5), obs=target)


def gates_and_slab() -> None:
    """No data, no arguments: one vector of gates, one of weights, one scalar of each."""
    pyro.sample("z", L0Prior(0.3).expand([4]).to_event(1))
    pyro.sample("w", dist.Normal(1.0, 2.0).expand([4]).to_event(1))
    pyro.sample("z0", SpikeAndSlabPrior(0.2))
    pyro.sample("w0", dist.Normal(-1.0, 0.5))


def parameters(*modules: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters, by number and name."""
    return {
        f"{number}.{name}": parameter.detach().clone()
        for number, module in enumerate(modules)
        for name, parameter in module.named_parameters()
    }


def changed(before: dict[str, Tensor], *modules: nn.Module) -> set[str]:
    """Names of the parameters that are not what they were."""
    return {name for name, value in parameters(*modules).items() if not torch.equal(value, before[name])}


def sites(function, *args) -> dict[str, dict]:
    """Latent sites of one run, by name."""
    return dict(poutine.trace(function).get_trace(*args).iter_stochastic_nodes())
