"""The hard concrete variable a second time, from its definition, in numpy and scipy only.

Everything is derived from the map of logistic noise ``log u - log(1-u)`` to the gate, and expectations are
integrals over that noise, so nothing here shares a formula with the library's quadrature over the gate.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from scipy.integrate import quad
from scipy.special import expit, log_expit

from l0bayes import HardConcrete

PARAMETERS = ("log_alpha", "beta", "gamma", "zeta")
_BREAKS = (-40.0, -15.0, -5.0, 0.0, 5.0, 15.0, 40.0)


@dataclass(frozen=True)
class Gate:
    """One gate; all numbers are Python floats."""

    log_alpha: float
    beta: float = 2 / 3
    gamma: float = -0.1
    zeta: float = 1.1

    def of_noise(self, noise: float) -> float:
        s = expit((noise + self.log_alpha) / self.beta)
        return min(1.0, max(0.0, s * (self.zeta - self.gamma) + self.gamma))

    def of_uniform(self, u: float) -> float:
        return self.of_noise(math.log(u) - math.log1p(-u))

    def noise_at(self, z: float) -> float:
        """The noise whose gate, before clipping, is z."""
        return self.beta * math.log((z - self.gamma) / (self.zeta - z)) - self.log_alpha

    @property
    def prob_zero(self) -> float:
        return expit(self.noise_at(0))

    @property
    def prob_one(self) -> float:
        return expit(-self.noise_at(1))

    def cdf(self, z: float) -> float:
        return 0.0 if z < 0 else 1.0 if z >= 1 else expit(self.noise_at(z))

    def log_prob(self, z: float) -> float:
        noise = self.noise_at(z)
        if z in {0, 1}:
            return log_expit(noise if z == 0 else -noise)
        slope = self.beta * (1 / (z - self.gamma) + 1 / (self.zeta - z))
        return log_expit(noise) + log_expit(-noise) + math.log(slope)

    def expect(self, f: Callable[[float], float]) -> float:
        """E[f(z)]: two atoms and an integral over the noise that ends between them."""
        low, high = self.noise_at(0), self.noise_at(1)
        edges = [low, *(b for b in _BREAKS if low < b < high), high]
        inside = (
            quad(lambda n: f(self.of_noise(n)) * expit(n) * expit(-n), a, b, epsabs=1e-13, epsrel=1e-11)[0]
            for a, b in itertools.pairwise(edges)
        )
        return self.prob_zero * f(0) + self.prob_one * f(1) + sum(inside)

    @property
    def mean(self) -> float:
        return self.expect(lambda z: z)

    @property
    def variance(self) -> float:
        mean = self.mean
        return self.expect(lambda z: (z - mean) ** 2)

    @property
    def entropy(self) -> float:
        return -self.expect(self.log_prob)

    def kl(self, other: "Gate") -> float:
        return self.expect(lambda z: self.log_prob(z) - other.log_prob(z))

    def slope(self, name: str, of: Callable[["Gate"], float], step: float = 1e-3) -> float:
        """Derivative of ``of(gate)`` in one parameter: central differences of fourth order."""
        at = {k: of(replace(self, **{name: getattr(self, name) + k * step})) for k in (-2, -1, 1, 2)}
        return (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * step)


def as_tensors(gates: list[Gate], dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """The four parameters of many gates, each of shape ``(len(gates),)``."""
    return [torch.tensor([getattr(g, name) for g in gates], dtype=dtype) for name in PARAMETERS]


def as_distribution(gates: list[Gate], dtype: torch.dtype = torch.float64) -> HardConcrete:
    return HardConcrete(*as_tensors(gates, dtype))


def column(values) -> torch.Tensor:
    return torch.tensor(list(values), dtype=torch.float64)


def assert_close(actual: torch.Tensor, expected, atol: float, rtol: float = 0.0) -> None:
    expected = torch.as_tensor(expected, dtype=actual.dtype).expand(actual.shape)
    torch.testing.assert_close(actual, expected, atol=atol, rtol=rtol)


GRID = [
    Gate(log_alpha, beta, gamma, zeta)
    for log_alpha in (-6.0, -1.0, 0.0, 0.7, 4.0)
    for beta in (0.2, 2 / 3, 1.0, 3.0)
    for gamma, zeta in ((-0.1, 1.1), (-0.4, 1.05), (-1.0, 3.0))
]
EXTREMES = [
    Gate(0.3, beta=60.0),
    Gate(-20.0, beta=60.0),
    Gate(0.3, beta=0.01),
    Gate(0.3, gamma=-1e-3),
    Gate(-2.0, gamma=-1e-3, zeta=1.001),
    Gate(0.3, beta=10.0, gamma=-1e-3, zeta=1.001),
    Gate(1.0, gamma=-50.0, zeta=70.0),
    Gate(-30.0),
    Gate(30.0),
]

SUMMARIES = {
    "mean": lambda d: d.mean,
    "variance": lambda d: d.variance,
    "entropy": lambda d: d.entropy(),
    "prob_zero": lambda d: d.prob_zero,
    "prob_one": lambda d: d.prob_one,
    "prob_nonzero": lambda d: d.prob_nonzero,
}
