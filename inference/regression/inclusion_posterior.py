"""What was found about the gates of a regression, and what speaks against it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from torch import Tensor

from l0bayes.inference.regression.bernoulli_mixture import BernoulliMixture
from l0bayes.inference.regression.importance import WeightedGates
from l0bayes.models import SpikeSlabRegression
from l0bayes.models.averaged import Averaged
from l0bayes.models.set_average import SetAverage

Gates = WeightedGates | BernoulliMixture | SetAverage
Method = Literal["exact", "gibbs", "mean-field", "binary", "mixture", "importance"]


@dataclass(frozen=True, repr=False)
class InclusionPosterior(Averaged):
    """Posterior inclusion probabilities, coefficients, and diagnostics: what speaks against them.

    Attributes:
        table: a row a predictor: ``name``, ``group``, ``inclusion`` of its gate, ``mean`` and ``sd`` of the
            coefficient, in the units of ``X`` and ``y``. Of ``"exact"`` and ``"gibbs"`` also ``mcse``, the Monte Carlo
            standard error of ``inclusion``; of ``"gibbs"`` its ``rhat`` over half chains, and ``ess``, how many
            independent draws would have that error.
        groups: names of the gates.
        inclusion: of the gates, of shape ``(gates,)``.
        models: the most probable sets of open gates among those seen: ``gates`` (their names), ``size`` and
            ``probability``; empty for ``"mean-field"``, ``"binary"`` and ``"mixture"``.
        sizes: probabilities of 0, 1, … open gates.
        gates: the distribution of the gates that the method found.
        method: by which they were found.
        pareto_k: of the importance weights: below 0.7 they can be averaged; NaN for ``"exact"`` and ``"gibbs"``.
        effective_size: effective number of the weighted draws; of ``"gibbs"`` the least ``ess``.
        diagnostics: why the answer should not be trusted; empty if nothing is known against it.
        evaluations: marginal likelihoods computed; of ``"gibbs"`` states of the chains.
        seconds: that it took.
        average: the sets behind :meth:`summary`, :meth:`predict` and draws, by ``"exact"`` and ``"gibbs"``;
            ``None`` otherwise.
        log_evidence: of the data, in nats, by ``"exact"``; ``None`` otherwise.
    """

    table: pd.DataFrame
    groups: tuple[str, ...]
    inclusion: np.ndarray
    models: pd.DataFrame
    sizes: np.ndarray
    gates: Gates
    method: Method
    pareto_k: float
    effective_size: float
    diagnostics: tuple[str, ...]
    evaluations: int
    seconds: float
    average: SetAverage | None = None
    log_evidence: float | None = None

    @property
    def doubts(self) -> tuple[str, ...]:
        """The diagnostics, by the name that they had before."""
        return self.diagnostics

    @property
    def guide(self) -> str:
        """The method, by the name that it had before."""
        return self.method

    @property
    def how(self) -> str:
        """In words."""
        return f"method={self.method!r}"

    @property
    def moments(self) -> pd.DataFrame:
        """The table."""
        return self.table

    def group_inclusion(self, gates: Sequence[str]) -> float:
        """Probability that at least one of some gates is open, such as of correlated predictors.

        Raises:
            ValueError: if one is unknown.
        """
        return self.gates.any_open(self._numbers("gates", gates))


def coefficient_table(model: SpikeSlabRegression, inclusion: Tensor, mean: Tensor, sd: Tensor) -> pd.DataFrame:
    """The columns that all methods have.

    Args:
        model: the regression.
        inclusion: of the gates.
        mean: of the coefficients of scaled columns.
        sd: their standard deviations.
    """
    parts = model.parts()
    gate_of = parts.gate_of.tolist()
    return pd.DataFrame(
        {
            "name": model.names,
            "group": [model.groups[gate] for gate in gate_of],
            "inclusion": inclusion.numpy()[gate_of],
            "mean": (mean / parts.spread).numpy(),
            "sd": (sd / parts.spread).numpy(),
        }
    )
