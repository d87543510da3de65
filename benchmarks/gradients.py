"""How noisy the gradient of drawn gates is: one draw, several, antithetic pairs, DisARM.

An MLP on scikit-learn's digits, early in training with drawn gates, on one batch. The pathwise estimators are of the
hard concrete, the library's. DisARM (Dong, Mnih and Tucker 2020, arXiv 2006.10680) is unbiased for gates that are
exactly 0 or 1 with the same P(z ≠ 0), whose expected loss is another function: signal and noise are therefore compared
within each estimator.
"""

import argparse
from collections.abc import Callable

import torch
from record import record
from torch import Tensor
from torch.nn.functional import cross_entropy

from l0bayes import HardConcrete, sparsify
from l0bayes.inference import HardConcreteGuide, TensorBatches, fit
from l0bayes.inference.data.datasets import load_data
from l0bayes.models import MLP, Classifier

SEED = 0
EPOCHS = 10
BATCH = 64
ESTIMATES = 1000
SIZES = {"fc1.input": 64, "fc2.input": 300, "fc3.input": 100}


class Estimators:
    """Each call gives one estimate of ∂E[loss]/∂log α, all gates in a row; the loss in nats a datum."""

    def __init__(self) -> None:
        data = load_data("digits", "data", download=False)
        torch.manual_seed(SEED)
        sparse = sparsify(MLP(64, 300, 100, 10), data.train.x[:2], code_cost=0.03, gates="input")
        model = Classifier(sparse, len(data.train))
        guide = HardConcreteGuide(model)
        batches = TensorBatches(data.train.x, data.train.y, BATCH, shuffle=True)
        fit(model, guide, batches, epochs=EPOCHS, lr=3e-3, selection="svi", progress=False)
        self._sparse, self._x, self._y = sparse.eval(), data.train.x[:BATCH], data.train.y[:BATCH]
        gates = guide.gates()
        self._log_alpha = torch.cat([gates[name].log_alpha.detach() for name in SIZES]).requires_grad_()
        self._prob_nonzero = HardConcrete(self._log_alpha.detach()).prob_nonzero

    def _loss(self, z: Tensor) -> Tensor:
        gates = dict(zip(SIZES, z.split(list(SIZES.values())), strict=True))
        return cross_entropy(self._sparse.run(gates, self._x), self._y)

    def pathwise(self, draws: int = 1, *, antithetic: bool = False) -> Tensor:
        """Reparameterised hard concrete, of several draws, or of pairs (u, 1 − u)."""
        gate, total = HardConcrete(self._log_alpha), torch.zeros(())
        for _ in range(draws // 2 if antithetic else draws):
            u = torch.rand_like(self._log_alpha)
            for one in (u, 1 - u) if antithetic else (u,):
                total = total + self._loss(gate.icdf(one.clamp(1e-6, 1 - 1e-6)))
        (slope,) = torch.autograd.grad(total / draws, self._log_alpha)
        return slope

    @torch.no_grad()
    def disarm(self, pairs: int = 1) -> Tensor:
        """Binary gates, from two antithetic runs without a backward pass for the gates."""
        found = torch.zeros_like(self._log_alpha)
        for _ in range(pairs):
            u = torch.rand_like(found)
            one, other = (u < self._prob_nonzero).float(), (1 - u < self._prob_nonzero).float()
            sure = torch.maximum(self._prob_nonzero, 1 - self._prob_nonzero)
            found += 0.5 * (self._loss(one) - self._loss(other)) * (one - other) * sure
        return found / pairs


def noise(estimate: Callable[[], Tensor]) -> dict[str, float]:
    """Signal, noise and their ratio, over many estimates."""
    found = torch.stack([estimate() for _ in range(ESTIMATES)]).double()
    variance, mean = found.var(0), found.mean(0)
    signal = (mean.square() - variance / ESTIMATES).clamp(min=0)  # the mean of estimates has noise of its own
    return {
        "signal": float(signal.sum().sqrt()),
        "noise": float(variance.sum().sqrt()),
        "noise_to_signal": float((variance.sum() / signal.sum()).sqrt()),
        "gates_without_gradient": float((found == 0).double().mean()),
    }


def main() -> None:
    """Measures each estimator, and how many gates a single estimate tells nothing of."""
    argparse.ArgumentParser(description=__doc__).parse_args()  # no options: only --help
    by = Estimators()
    estimators: dict[str, Callable[[], Tensor]] = {
        "pathwise, 1 draw": by.pathwise,
        "pathwise, 2 draws": lambda: by.pathwise(2),
        "pathwise, an antithetic pair": lambda: by.pathwise(2, antithetic=True),
        "pathwise, 4 draws": lambda: by.pathwise(4),
        "DisARM, a pair": by.disarm,
        "DisARM, 2 pairs": lambda: by.disarm(2),
    }
    rows = {name: noise(estimate) for name, estimate in estimators.items()}
    lines = ["| estimator | noise / signal | signal, nats | gates without gradient |", "|---" * 4 + "|"]
    lines += [
        f"| {name} | {row['noise_to_signal']:.1f} | {row['signal']:.3g} | {row['gates_without_gradient']:.0%} |"
        for name, row in rows.items()
    ]
    record("gradients", SEED, rows, "\n".join(lines))


if __name__ == "__main__":
    main()
