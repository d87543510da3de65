"""One training step of a gated MLP 784-300-100-10 at batch 100: Pyro against hand-written and dense.

All steps include the optimizer (fused Adam). "hand_written" is the paper's way, a mask on what enters each layer;
"hand_written_weights" multiplies the weights' columns instead, which is what l0bayes does too.
"""

import argparse
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from pyro.infer import TraceMeanField_ELBO
from record import record
from torch import Tensor, nn

from l0bayes import sparsify
from l0bayes.inference import ClosedFormKL_ELBO, HardConcreteGuide
from l0bayes.inference.system.timing import interleaved
from l0bayes.models import MLP, Classifier
from l0bayes.subnetwork.selection import Selector

SEED = 0
NUM_DATA = 60_000
SIZES = (784, 300, 100, 10)
CODE_COST = 0.1
BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
OPENNESS = {
    "0.97": (0.97, 0.97, 0.97),
    "0.8": (0.8, 0.8, 0.8),
    "0.5": (0.5, 0.5, 0.5),
    "219-214-100": (219 / 784, 214 / 300, 0.999),
    "97-71-33": (97 / 784, 71 / 300, 33 / 100),
}

Step = Callable[[], None]


def adam(parameters: list[Tensor]) -> torch.optim.Optimizer:
    """An optimizer that leaves everything where it is, so that openness stays as set."""
    return torch.optim.Adam(parameters, lr=0.0, fused=True)


def dense_step(x: Tensor, y: Tensor) -> Step:
    """The plain network."""
    net = MLP(*SIZES)
    optimizer = adam(list(net.parameters()))

    def step() -> None:
        optimizer.zero_grad()
        (NUM_DATA * F.cross_entropy(net(x), y)).backward()
        optimizer.step()

    return step


def hand_written_step(x: Tensor, y: Tensor, openness: tuple[float, ...], *, on_weights: bool) -> Step:
    """The same mathematics without Pyro and without selecting."""
    net = MLP(*SIZES)
    layers = [layer for layer in net.children() if isinstance(layer, nn.Linear)]
    offset = BETA * math.log(-GAMMA / ZETA)
    gates = [
        torch.full((layer.in_features,), math.log(p / (1 - p)) + offset, requires_grad=True)
        for layer, p in zip(layers, openness, strict=True)
    ]
    optimizer = adam([*net.parameters(), *gates])

    def step() -> None:
        optimizer.zero_grad()
        h = x
        penalty = torch.zeros(())
        for layer, log_alpha in zip(layers, gates, strict=True):
            u = torch.rand_like(log_alpha)
            s = torch.sigmoid((u.log() - (1 - u).log() + log_alpha) / BETA)
            z = (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)
            h = F.linear(h, layer.weight * z, layer.bias) if on_weights else layer(h * z)
            if layer is not layers[-1]:
                h = h.relu()
            penalty = penalty + CODE_COST * layer.out_features * torch.sigmoid(log_alpha - offset).sum()
        (NUM_DATA * F.cross_entropy(h, y) + penalty).backward()
        optimizer.step()

    return step


def pyro_step(
    x: Tensor,
    y: Tensor,
    openness: tuple[float, ...],
    elbo_class: type[TraceMeanField_ELBO],
    narrow_below: float | None = None,
) -> Step:
    """Model and guide of l0bayes under an ELBO; closed slices taken out as by default, or below another share."""
    sparse = sparsify(MLP(*SIZES), x[:2], CODE_COST, "input")
    if narrow_below is not None:
        # There is no option, since the default is the best.
        sparse._selectors[1, False] = Selector(sparse.net, sparse.groups, narrow_below)  # noqa: SLF001
    model = Classifier(sparse, NUM_DATA)
    shares = {f"fc{i}.input": p for i, p in enumerate(openness, start=1)}
    elbo = elbo_class()(model, HardConcreteGuide(model, init_open=shares))
    optimizer = adam(list(elbo.parameters()))

    def step() -> None:
        optimizer.zero_grad()
        elbo(x, y).backward()
        optimizer.step()

    return step


def main() -> None:
    """Times all steps, interleaved, at several shares of open gates."""
    argparse.ArgumentParser(description=__doc__).parse_args()  # no options: only --help
    torch.manual_seed(SEED)
    x, y = torch.rand(100, SIZES[0]), torch.randint(SIZES[-1], (100,))
    results = {}
    for name, openness in OPENNESS.items():
        timing = interleaved(
            {
                "hand_written": hand_written_step(x, y, openness, on_weights=False),
                "hand_written_weights": hand_written_step(x, y, openness, on_weights=True),
                "dense": dense_step(x, y),
                "l0bayes_stock_elbo": pyro_step(x, y, openness, TraceMeanField_ELBO),
                "l0bayes": pyro_step(x, y, openness, ClosedFormKL_ELBO),
                "l0bayes_never_narrow": pyro_step(x, y, openness, ClosedFormKL_ELBO, narrow_below=0.0),
                "l0bayes_always_narrow": pyro_step(x, y, openness, ClosedFormKL_ELBO, narrow_below=1.0),
            },
            rounds=41,
            seconds=0.05,
        )
        dense = timing.seconds["dense"]
        results[name] = {
            "milliseconds": {key: round(1e3 * value, 3) for key, value in timing.seconds.items()},
            "ratio_to_hand_written": {key: round(value, 3) for key, value in timing.ratio.items()},
            "ratio_to_dense": {key: round(value / dense, 3) for key, value in timing.seconds.items()},
        }
    record("step_overhead", SEED, results)


if __name__ == "__main__":
    main()
