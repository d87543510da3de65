"""Small networks with few gates, and what their layers cost under every pattern of gates, counted by hand."""

import itertools

import torch
from guide_models import spread
from named_layers import Net
from torch import nn

from l0bayes import sparsify
from l0bayes.inference import ClosedFormKL_ELBO, HardConcreteGuide
from l0bayes.models import MLP


def images():
    """A filter is read at four places, each of which has a gate too."""
    layers = {"conv": nn.Conv2d(1, 2, 3), "norm": nn.BatchNorm2d(2), "fc1": nn.Linear(8, 3), "fc2": nn.Linear(3, 2)}
    return Net(lambda self, x: self.fc2(self.fc1(self.norm(self.conv(x)).relu().flatten(1)).relu()), **layers)


def stream():
    layers = {"fc1": nn.Linear(2, 3), "fc2": nn.Linear(3, 3), "fc3": nn.Linear(3, 2)}
    return Net(lambda self, x: self.fc3((h := self.fc1(x).relu()) + self.fc2(h)), **layers)


def attention():
    layers = {"heads": nn.MultiheadAttention(4, 2, batch_first=True), "fc1": nn.Linear(4, 3), "fc2": nn.Linear(3, 2)}
    return Net(lambda self, x: self.fc2(self.fc1(self.heads(x, x, x, need_weights=False)[0]).relu()), **layers)


# Network, its input, gates, and the parameters and multiply-accumulates of each layer that live, given 0s and 1s.
EXAMPLES = {
    "mlp": (
        lambda: MLP(3, 3, 2, 2),
        (3,),
        {"fc?": "unit"},
        lambda a, b: {"fc1": 4 * a.sum(1), "fc2": (a.sum(1) + 1) * b.sum(1), "fc3": 2 * b.sum(1)},
        lambda a, b: {"fc1": 3 * a.sum(1), "fc2": a.sum(1) * b.sum(1), "fc3": 2 * b.sum(1)},
    ),
    "images": (
        images,
        (1, 4, 4),
        {"con[v]": "unit", "fc[1]": "input", "fc[2]": "input"},
        lambda f, p, u: {
            "conv": 10 * f.sum(1),
            "norm": 2 * f.sum(1),
            "fc1": ((f.repeat_interleave(4, 1) * p).sum(1) + 1) * u.sum(1),
            "fc2": 2 * u.sum(1),
        },
        lambda f, p, u: {
            "conv": 4 * 9 * f.sum(1),
            "fc1": (f.repeat_interleave(4, 1) * p).sum(1) * u.sum(1),
            "fc2": 2 * u.sum(1),
        },
    ),
    "stream": (
        stream,
        (2,),
        {"fc?": "unit"},
        lambda k: {"fc1": 3 * k.sum(1), "fc2": k.sum(1) ** 2 + k.sum(1), "fc3": 2 * k.sum(1)},
        lambda k: {"fc1": 2 * k.sum(1), "fc2": k.sum(1) ** 2, "fc3": 2 * k.sum(1)},
    ),
    "attention": (
        attention,
        (5, 4),
        {"heads*": "unit", "fc?": "unit"},
        lambda h, k, u: {
            "heads": 6 * 5 * h.sum(1),
            "heads.out_proj": (2 * h.sum(1) + 1) * k.sum(1),
            "fc1": (k.sum(1) + 1) * u.sum(1),
            "fc2": 2 * u.sum(1),
        },
        lambda h, k, u: {  # at five places; scores and averages are the heads'
            "heads": 5 * (6 * 4 + 2 * 5 * 2) * h.sum(1),
            "heads.out_proj": 5 * 2 * h.sum(1) * k.sum(1),
            "fc1": 5 * k.sum(1) * u.sum(1),
            "fc2": 5 * 2 * u.sum(1),
        },
    ),
}


def build(name, **options):
    """A sparse network, and a guide whose gates are anywhere."""
    network, shape, gates, _, _ = EXAMPLES[name]
    sparse = sparsify(network(), torch.zeros(2, *shape), **({"gates": gates} | options))
    return sparse, spread(HardConcreteGuide(sparse))


def by_hand(name, probs, cost="parameters", code_costs=None):
    """The mean over all patterns of gates; differentiable."""
    sizes = [len(prob) for prob in probs]
    patterns = torch.tensor(list(itertools.product([0.0, 1.0], repeat=sum(sizes)))).split(sizes, 1)
    chance = torch.stack([torch.where(z > 0, p, 1 - p).prod(1) for z, p in zip(patterns, probs, strict=True)]).prod(0)
    living = EXAMPLES[name][4 if cost == "macs" else 3](*patterns)
    return chance @ sum((code_costs or {}).get(layer, 1.0) * number for layer, number in living.items())


def probabilities(guide):
    return [gate.prob_nonzero for gate in guide.gates().values()]


def alone(sparse, guide):
    """Model and guide that consist of the gates alone."""
    return (lambda: sparse.sample_latents() and None), (lambda: guide() and None)


def kl(sparse, guide, elbo=ClosedFormKL_ELBO, **options):
    """The loss of the gates alone."""
    return elbo(**options).loss(*alone(sparse, guide))
