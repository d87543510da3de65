"""The exact posterior over all 2^p subsets of predictors of a linear regression: the truth to compare guides with.

Three settings: a normal slab and noise, each of a known scale or with its scale integrated out; Zellner's g-prior with
unknown noise (Liang et al. 2008, JASA 103, §2.1); and the BIC approximation (Raftery 1995). In each the intercept has a
flat prior, that is, all columns are centred.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from l0bayes.arguments import checked
from l0bayes.distributions.prior_inclusion import read_inclusion
from l0bayes.errors import DataError
from l0bayes.models.averaged import Averaged
from l0bayes.models.enumeration import enumerate_sets
from l0bayes.models.model_average import ModelAverage, average_of
from l0bayes.models.regression_data import RegressionData, read_regression_data
from l0bayes.models.set_prior import SetPrior
from l0bayes.models.unknown_scales import given_slab, relative_slab

SlabPrior = Literal["normal", "g", "bic"]

MOST_PREDICTORS = 20
_CHUNK = 2**14  # models at a time
_RANK = 1e-10  # smallest eigenvalue of a correlation matrix that counts as full rank


@dataclass(frozen=True, repr=False)
class ExactPosterior(Averaged):
    """What enumeration found.

    Attributes:
        names: of the p predictors.
        inclusion: posterior inclusion probabilities, of shape ``(p,)``.
        mean: posterior means of the coefficients over all models, 0 where excluded, in the units of ``X`` and ``y``.
        sizes: probabilities of models with 0, 1, … p predictors.
        log_evidence: of the data under the prior over models, in nats; for ``"g"`` and ``"bic"`` relative to the model
            without predictors.
        log_probs: log-probabilities of all 2^p models; predictor j is in model m if bit j of m is set.
        sd: posterior standard deviations of the coefficients; ``None`` for ``"g"`` and ``"bic"``.
        average: the models behind summaries, predictions and draws; ``None`` for ``"g"`` and ``"bic"``.
    """

    names: tuple[str, ...]
    inclusion: np.ndarray
    mean: np.ndarray
    sizes: np.ndarray
    log_evidence: float
    log_probs: np.ndarray
    sd: np.ndarray | None = None
    average: ModelAverage | None = None

    @property
    def groups(self) -> tuple[str, ...]:  # type: ignore[override]
        """The predictors: each has a gate of its own."""
        return self.names

    @property
    def how(self) -> str:
        """In words."""
        return "exact_posterior" if self.average is not None else "exact_posterior with prior='g' or 'bic'"

    @property
    def table(self) -> pd.DataFrame:
        """A row a predictor: ``name``, ``group``, ``inclusion``, ``mcse``, 0, ``mean`` and ``sd`` of coefficients."""
        table = pd.DataFrame({"name": self.names, "group": self.names, "inclusion": self.inclusion, "mcse": 0.0})
        return table.assign(mean=self.mean, sd=np.nan if self.sd is None else self.sd)

    @property
    def moments(self) -> pd.DataFrame:
        """The table."""
        return self.table

    def top_models(self, number: int = 10) -> pd.DataFrame:
        """The most probable models: columns ``predictors`` (their names), ``size`` and ``probability``."""
        best = np.argsort(-self.log_probs, kind="stable")[:number]
        inside = [[name for j, name in enumerate(self.names) if model >> j & 1] for model in best.tolist()]
        probs = np.exp(self.log_probs[best])
        return pd.DataFrame({"predictors": inside, "size": [len(names) for names in inside], "probability": probs})

    def group_inclusion(self, predictors: Sequence[str]) -> float:
        """Probability that at least one of some predictors is in the model, such as of correlated ones.

        Raises:
            ValueError: if one is unknown.
        """
        bits = sum(1 << number for number in self._numbers("predictors", predictors))
        without = np.arange(len(self.log_probs)) & bits == 0
        return float(1 - np.exp(self.log_probs[without]).sum())


@checked
def exact_inclusion(
    X: Any,  # noqa: N803
    y: Any,
    noise_scale: float | None = None,
    slab_scale: float | None = None,
    inclusion: Any = 0.5,
) -> np.ndarray:
    """Posterior inclusion probabilities under a normal slab, of shape ``(p,)``; see :func:`exact_posterior`."""
    return exact_posterior(X, y, noise_scale, slab_scale, inclusion).inclusion


@checked
def exact_posterior(
    X: Any,  # noqa: N803
    y: Any,
    noise_scale: float | None = None,
    slab_scale: float | None = None,
    inclusion: Any = 0.5,
    *,
    prior: SlabPrior = "normal",
    g: float | None = None,
) -> ExactPosterior:
    """Enumerates all subsets of predictors of a Gaussian linear regression.

    Args:
        X: predictors, of shape ``(n, p)``, p ≤ 20: an array, a tensor or a data frame.
        y: responses, of shape ``(n,)``.
        noise_scale: standard deviation of the noise, for ``prior="normal"``; integrated out, with the reference prior
            1/σ², if ``None``.
        slab_scale: prior standard deviation of a coefficient that is there, for ``prior="normal"``, in the units of
            ``X`` and ``y``. If ``None`` it is relative to the noise and to each column's standard deviation s_j,
            v σ² / s_j² with v ~ IG(1/2, 1/2) integrated out: a Cauchy with scale σ / s_j for each coefficient, after
            Zellner and Siow, see :func:`~l0bayes.models.unknown_scales.relative_slab`. It has no units.
        inclusion: prior probability that a predictor is in the model, one for all or one for each; or a
            ``Beta`` distribution, which that one probability then has.
        prior: of the coefficients that are there: ``"normal"``; ``"g"``, Zellner's; or ``"bic"``, none but BIC in place
            of the marginal likelihood.
        g: of Zellner's prior, > 0; n if ``None``.

    Returns:
        The posterior. Under ``prior="normal"`` it offers all that the result of ``infer_inclusion`` does.

    Raises:
        DataError: if the data are not finite, shapes differ, a column is constant, p > 20; or, for ``"g"`` and
            ``"bic"``, columns are collinear or n ≤ p + 1.
        ValueError: if another argument is out of range.
    """
    data = read_regression_data(X, y)
    p = data.x.shape[1]
    if p > MOST_PREDICTORS:
        raise DataError(f"X has {p} columns, and 2^{p} models are too many; enumerate at most {MOST_PREDICTORS}")
    if prior not in get_args(SlabPrior):
        raise ValueError(f"prior must be one of {', '.join(get_args(SlabPrior))}; got {prior!r}")
    prior_of = SetPrior(read_inclusion(inclusion, None, p), p)
    if prior == "normal":
        return _with_normal_slab(
            data, _positive("noise_scale", noise_scale), _positive("slab_scale", slab_scale), prior_of
        )
    if noise_scale is not None or slab_scale is not None:
        raise ValueError(f"noise_scale and slab_scale are for prior='normal'; prior={prior!r} has neither")
    marginal = _Explained(data, prior, _positive("g", g) or float(len(data.y)))
    log_probs, coefficients = [], []
    for inside in _subsets(p):
        log_marginal, mean = marginal.of(inside)
        log_probs.append(log_marginal + prior_of.log_prob(inside))
        coefficients.append(mean)
    return _summed(data.names, torch.cat(log_probs), coefficients, p)


def _with_normal_slab(data: RegressionData, noise: float | None, slab: float | None, prior: SetPrior) -> ExactPosterior:
    x, y = data.x.numpy(), data.y.numpy()
    if not y.any():
        raise DataError("y is constant; there is nothing to explain")
    scales = relative_slab(x, y, noise) if slab is None else given_slab(x, y, noise, np.full(x.shape[1], slab))
    found = enumerate_sets(scales, prior, np.arange(x.shape[1]))
    mean = found.mean * scales.units
    sd = np.sqrt(np.maximum(found.second - found.mean**2, 0)) * scales.units
    average = average_of(found, data, groups=data.names, gate_of=np.arange(x.shape[1]), scales=scales, prior=prior)
    return ExactPosterior(
        data.names, found.inclusion, mean, found.sizes, found.log_evidence, found.log_probs, sd, average
    )


def _summed(names: tuple[str, ...], joint: Tensor, coefficients: list[Tensor], p: int) -> ExactPosterior:
    evidence = joint.logsumexp(0)
    log_probs = joint - evidence
    inclusion, mean, sizes = (torch.zeros(size, dtype=torch.float64) for size in (p, p, p + 1))
    for part, inside, means in zip(log_probs.split(_CHUNK), _subsets(p), coefficients, strict=True):
        probs = part.exp()
        inclusion += probs @ inside
        mean += probs @ means
        sizes.index_add_(0, inside.sum(1).long(), probs)
    return ExactPosterior(names, inclusion.numpy(), mean.numpy(), sizes.numpy(), float(evidence), log_probs.numpy())


def _subsets(p: int) -> Iterator[Tensor]:
    """All subsets in chunks, a row each: 1 where a predictor is in."""
    bits = torch.arange(p)
    for models in torch.arange(2**p).split(_CHUNK):
        yield (models[:, None] >> bits & 1).double()


def _positive(name: str, value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number > 0; got {value!r}")
    return None if value is None else float(value)


class _Explained:
    """Bayes factors against the empty model from R² alone: Zellner's g-prior, or BIC."""

    def __init__(self, data: RegressionData, prior: str, g: float) -> None:
        n, p = data.x.shape
        if n <= p + 1:
            raise DataError(f"prior={prior!r} needs more rows than columns; X has {n} rows and {p} columns")
        self._scale_x, scale_y = data.x.norm(dim=0), data.y.norm()
        x = data.x / self._scale_x
        self._correlation, self._moment = x.T @ x, x.T @ (data.y / scale_y)
        if torch.linalg.eigvalsh(self._correlation)[0] < _RANK:
            raise DataError(f"prior={prior!r} needs columns that are not collinear; remove what the others determine")
        self._unit = torch.eye(p, dtype=torch.float64)
        self._n, self._g, self._bic, self._scale_y = n, g, prior == "bic", scale_y

    def of(self, inside: Tensor) -> tuple[Tensor, Tensor]:
        """Log Bayes factors and posterior means."""
        matrix = inside[:, :, None] * self._correlation * inside[:, None, :]
        matrix += torch.diag_embed(1 - inside)
        moment = inside * self._moment
        solved = torch.linalg.solve(matrix, moment)
        unexplained = (1 - (moment * solved).sum(1)).clamp(min=1e-300)
        size, n, g = inside.sum(1), self._n, self._g
        if self._bic:
            log_factor = -0.5 * n * unexplained.log() - 0.5 * size * math.log(n)
            shrinkage = 1.0
        else:
            log_factor = 0.5 * (n - 1 - size) * math.log1p(g) - 0.5 * (n - 1) * torch.log1p(g * unexplained)
            shrinkage = g / (1 + g)
        return log_factor, shrinkage * solved * self._scale_y / self._scale_x
