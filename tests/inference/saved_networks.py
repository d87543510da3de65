"""Networks and guides that the tests of storage save, and what they load them into."""

import torch

from l0bayes import compact, sparsify
from l0bayes.inference import HardConcreteGuide
from l0bayes.models import MLP, Classifier

SIZES = (12, 9, 7, 4)


def gated(seed: int = 0, gates: str | dict = "input", sizes: tuple[int, ...] = SIZES):
    """A model and a guide with about half of its gates closed, at random."""
    torch.manual_seed(seed)
    model = Classifier(sparsify(MLP(*sizes), torch.zeros(2, sizes[0]), gates=gates), num_data=10)
    guide = HardConcreteGuide(model)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.copy_(-1.5 + 3 * torch.randn(parameter.shape))
    return model, guide


def small_network(**options):
    model, guide = gated(**options)
    return compact(model, guide)
