"""Linear, logistic and Poisson regression with spike-and-slab coefficients."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import pyro_method
from torch import Tensor, nn
from torch.distributions import Beta

from l0bayes.arguments import checked
from l0bayes.checks import check_inputs
from l0bayes.distributions import SpikeAndSlabPrior
from l0bayes.distributions.prior_inclusion import read_inclusion
from l0bayes.errors import DataError
from l0bayes.models.guided_coefficients import guided_coefficients
from l0bayes.models.regression_data import (
    Parts,
    RegressionData,
    check_response,
    read_groups,
    read_offset,
    read_regression_data,
)
from l0bayes.models.set_prior import SetPrior
from l0bayes.models.set_rules import read_rules
from l0bayes.models.slab_options import LikelihoodName, SlabName, checked_slab_scale, default_slab
from l0bayes.owned_module import OwnedModule

_LARGEST_RATE = 30.0  # log of a Poisson mean, beyond which a draw would overflow


class SpikeSlabRegression(OwnedModule):
    """A regression each of whose coefficients is there or not: y ~ f(intercept + Σ z_g(j) β_j x_j).

    Gates z_g ~ Bernoulli(inclusion), site ``"gate"``; coefficients β_j ~ N(0, τ_j²), site ``"slab"``. A guide
    that is told by ``infer={"gate": …}`` which gate a coefficient hangs on, as
    :class:`~l0bayes.inference.HardConcreteGuide` is, weights the KL of the coefficient by P(z ≠ 0): what is not there
    keeps its prior, and costs nothing. So the code cost of each coefficient is learned with it.

    By default the slab has no units: τ_j = √v σ / s_j, with s_j the standard deviation of a column and σ of the noise.
    v = 1 says as much as one datum would (Kass and Wasserman 1995, JASA 90); unknown, v ~ IG(1/2, 1/2), it makes each
    coefficient Cauchy with scale σ / s_j, after Zellner and Siow (1980), see
    :func:`~l0bayes.models.unknown_scales.relative_slab`. ``infer_inclusion`` integrates v and σ out; a guide learns
    them, as points. Columns are centred and scaled inside, so that any units train alike; a ``slab_scale`` that is
    given, and what :meth:`coefficients` reports, are in the units of ``X`` and ``y``. The intercept has a flat prior;
    for ``"gaussian"`` all is centred instead, as in :func:`~l0bayes.models.exact_posterior`.

    Args:
        X: predictors, of shape ``(n, p)``: an array, a tensor, a sparse matrix, or a data frame, whose columns have
            names; of formulas and categories, see :func:`~l0bayes.models.read_formula`.
        y: responses, of shape ``(n,)``: real, 0 and 1, or counts.
        likelihood: ``"gaussian"``; ``"bernoulli"`` with a logistic, ``"poisson"`` with a log link.
        noise_scale: standard deviation of the noise, for ``"gaussian"``; unknown if ``None``.
        slab_scale: prior standard deviation of a coefficient that is there, in the units of ``X`` and ``y``, the same
            for all columns or one for each; by ``slab`` if ``None``.
        slab: how wide it is then: ``"zellner-siow"``, v unknown, the default for ``"gaussian"``;
            ``"unit-information"``, v = 1, the default for the others, where σ² is one over the variance of y at its
            mean, Bernoulli's or Poisson's; ``"learned"``, one width in the units of ``X`` and ``y`` for all columns, as
            a point (empirical Bayes).
        inclusion: prior probability of an open gate, one for all or one for each gate; or a ``Beta`` distribution,
            which makes the one of all gates a latent variable, site ``"inclusion"``.
        expected_open: that probability given as the number of gates that are open on average, instead.
        groups: for each column the name of its group, whose columns share a gate; each has its own if ``None``.
        always: names of gates that are open in every set, with the slab that all have; for ``"exact"`` and ``"gibbs"``.
        parents: for some gates the names of those that must be open for them to be, as those of an interaction
            (strong heredity); ``inclusion`` of such a gate is given that they are. For ``"exact"`` and ``"gibbs"``.
        offset: a known part of the linear predictor of each row, of shape ``(n,)``.
        exposure: of counts, > 0, of shape ``(n,)``: its logarithm is an offset; for ``"poisson"``.

    Raises:
        DataError: if the data are not finite, shapes differ, a column is constant, or ``y`` does not suit the
            likelihood.
        ValueError: if another argument is out of range.
    """

    @checked
    def __init__(
        self,
        X: Any,  # noqa: N803
        y: Any,
        *,
        likelihood: LikelihoodName = "gaussian",
        noise_scale: float | None = None,
        slab_scale: Any = None,
        slab: SlabName | None = None,
        inclusion: Any = None,
        expected_open: float | None = None,
        groups: Sequence[Any] | None = None,
        always: Sequence[str] | None = None,
        parents: Mapping[str, Sequence[str]] | None = None,
        offset: Any = None,
        exposure: Any = None,
    ) -> None:
        super().__init__()
        if likelihood not in get_args(LikelihoodName):
            raise ValueError(f"likelihood must be one of {', '.join(get_args(LikelihoodName))}; got {likelihood!r}")
        data = read_regression_data(X, y)
        check_response(data, likelihood)
        slab_scale = checked_slab_scale(likelihood, noise_scale, slab_scale, slab, len(data.names))
        if exposure is not None and likelihood != "poisson":
            raise ValueError(f"exposure is for likelihood='poisson'; give an offset for {likelihood!r}")
        known = read_offset(X, offset, exposure, len(data.y))
        if likelihood == "gaussian" and known is not None:
            data = read_regression_data(X, data.y + data.y_mean - known)
            check_response(data, likelihood)
        self.likelihood = likelihood
        self.slab: SlabName | None = slab if slab_scale is not None or slab is not None else default_slab(likelihood)
        self.names = data.names
        self.num_data = len(data.y)
        self.has_offset = known is not None
        self.groups, gate_of = read_groups(data.names, groups)
        self._rules = read_rules(self.groups, always, parents)
        spread = data.x.square().mean(0).sqrt()
        given = 0.5 if inclusion is None and expected_open is None else inclusion
        self._inclusion_prior = read_inclusion(given, expected_open, len(self.groups))
        for name, value in (
            ("_gate_of", gate_of),
            ("_x", data.x / spread),
            ("_y", data.y + data.y_mean),
            ("_x_mean", data.x_mean),
            ("_spread", spread),
            ("_offset", torch.zeros(len(data.y), dtype=torch.float64) if known is None else known),
        ):
            self.register_buffer(name, value, persistent=False)
        self.unknown = nn.Module()
        self._scales = {"noise": noise_scale, "slab": slab_scale}
        self._set_unknown(data)
        self.claim_parameters()

    def _set_unknown(self, data: RegressionData) -> None:
        """Parameters for what was not given: intercept, noise, slab."""
        unknown = self.child("unknown")
        deviation = float(data.y.square().mean().sqrt())
        if self.likelihood == "gaussian":
            self.register_buffer("_intercept", torch.tensor(data.y_mean, dtype=torch.float64), persistent=False)
            if self._scales["noise"] is None:
                unknown.log_noise = nn.Parameter(torch.tensor(math.log(deviation), dtype=torch.float64))
        else:
            mean = (data.y_mean * self.num_data + 0.5) / (self.num_data + 1)
            if self.likelihood == "poisson":  # counts per exposure
                mean = mean / float(self._offset.exp().mean())
            start = math.log(mean) if self.likelihood == "poisson" else math.log(mean / (1 - mean))
            unknown.intercept = nn.Parameter(torch.tensor(start, dtype=torch.float64))
            self._slab_unit = (mean if self.likelihood == "poisson" else mean * (1 - mean)) ** -0.5
        if self.slab in ("zellner-siow", "learned"):
            start = float(deviation / self.get_buffer("_spread").mean()) if self.slab == "learned" else 1.0
            unknown.log_slab = nn.Parameter(torch.tensor(math.log(start), dtype=torch.float64))

    # -- what it consists of ------------------------------------------------------------------------------------

    @property
    def data(self) -> tuple[Tensor, ...]:
        """All predictors and responses, in the user's units: a batch for ``fit(model, guide, [model.data])``.

        Offsets of a Gaussian regression are taken off the responses; those of others come third.
        """
        x = self._x * self._spread + self._x_mean
        return (x, self._y, self._offset) if self._has_offsets else (x, self._y)

    @property
    def _has_offsets(self) -> bool:
        return self.has_offset and self.likelihood != "gaussian"

    @property
    def regression_data(self) -> RegressionData:
        """The data, centred, in the user's units."""
        y_mean = float(self._y.mean())
        offset = self._offset if self.has_offset else None
        return RegressionData(self._x * self._spread, self._y - y_mean, self._x_mean, y_mean, self.names, offset)

    def parts(self) -> Parts:
        """What methods that integrate the coefficients out start from."""
        return Parts(self._x, self._y, self._x_mean, self._spread, self._gate_of, self._inclusion_prior, self._offset)

    @property
    def set_prior(self) -> SetPrior:
        """The prior over sets of open gates."""
        return SetPrior(self._inclusion_prior, len(self.groups), self._rules)

    @property
    def has_rules(self) -> bool:
        """Whether some gates are always open, or need others."""
        return self._rules is not None

    def scale(self, name: Literal["noise", "slab"]) -> Tensor:
        """Standard deviation of the noise or of the slab, given or as learned so far.

        A slab's may be one for each column. That of a slab without units is √v, in units of the noise per standard
        deviation of a column.
        """
        given = 1.0 if name == "slab" and self.slab == "unit-information" else self._scales[name]
        return (
            self.parameter(f"unknown.log_{name}").exp()
            if given is None
            else torch.as_tensor(given, dtype=self._x.dtype, device=self._x.device)
        )

    def slab_deviation(self) -> Tensor:
        """Prior standard deviations of the coefficients of the scaled columns, of shape ``(p,)``."""
        if self.slab in (None, "learned"):
            deviation: Tensor = self.scale("slab") * self._spread
            return deviation
        unit = self.scale("noise") if self.likelihood == "gaussian" else self._x.new_tensor(self._slab_unit)
        return (self.scale("slab") * unit).expand(len(self.names))

    @property
    def site_labels(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        """For each site that has members, what they are, and their names; for exports."""
        predictors = ("predictor", self.names)
        return {"gate": ("group", self.groups), "slab": predictors, "coefficient": predictors}

    def exported(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Draws of the sites for exports: ``slab`` in the user's units, and ``coefficient``, that times its gate."""
        slab = values["slab"] / self._spread
        return {**values, "slab": slab, "coefficient": values["gate"][..., self._gate_of] * slab}

    @property
    def learns_scales(self) -> bool:
        """Whether noise or slab have a scale that training finds."""
        return self.slab in ("zellner-siow", "learned") or self.noise_is_unknown

    @property
    def noise_is_unknown(self) -> bool:
        """Whether there is a noise and its scale was not given."""
        return self.likelihood == "gaussian" and self._scales["noise"] is None

    @property
    def intercept(self) -> Tensor:
        """What is expected, before the link, where all predictors are at their means."""
        return self._intercept if self.likelihood == "gaussian" else self.parameter("unknown.intercept")

    @pyro_method
    def sample_latents(self) -> dict[str, Tensor]:
        """Draws gates and slabs, the latter in units of the scaled columns; and the inclusion, if it is unknown."""
        if self.has_rules:
            raise ValueError(
                "always= and parents= are for infer_inclusion with 'exact' or 'gibbs'; guides know no rules"
            )
        inclusion: Any = self._inclusion_prior
        if isinstance(inclusion, Beta):
            concentrations = (getattr(inclusion, f"concentration{which}").squeeze().to(self._x) for which in (1, 0))
            inclusion = pyro.sample("inclusion", dist.Beta(*concentrations))
        with pyro.plate("gates", len(self.groups), dim=-1):
            gate = pyro.sample("gate", SpikeAndSlabPrior(inclusion.to(self._x)))
        hangs_on: Any = {"gate": "gate", "gate_index": None if len(self.groups) == len(self.names) else self._gate_of}
        with pyro.plate("predictors", len(self.names), dim=-1):
            slab = pyro.sample("slab", dist.Normal(0.0, self.slab_deviation()), infer=hangs_on)
        return {"gate": gate, "slab": slab}

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, offset: Tensor | None = None) -> Tensor:
        """Draws coefficients and observes, or draws, responses at site ``"y"``.

        Args:
            x: predictors of a batch, of shape ``(batch, p)``, in the user's units; with neither ``x`` nor ``y`` all
                the data are observed.
            y: responses; ``None`` draws them.
            offset: of the rows of a batch, for a logistic or Poisson regression that has offsets.

        Returns:
            The responses.

        Raises:
            DataError: if the batch is empty, not finite, of another width, or lacks its offsets.
        """
        self.announce("unknown")
        if x is None:
            scaled, y, offset = self._x, self._y, self._offset if self._has_offsets else None
        else:
            check_inputs(x)
            if x.dim() != 2 or x.shape[1] != len(self.names):  # noqa: PLR2004
                raise DataError(f"x must be of shape (batch, {len(self.names)}); got {tuple(x.shape)}")
            scaled = (x.to(self._x) - self._x_mean) / self._spread
        if (offset is None) == self._has_offsets:
            raise DataError(
                f"offset must {'not ' if offset is not None else ''}be given with a batch of this regression"
            )
        draws = self.sample_latents()
        coefficient = draws["gate"][..., self._gate_of] * draws["slab"]
        output = self.intercept + (scaled @ coefficient.unsqueeze(-1)).squeeze(-1)
        output = output if offset is None else output + offset.to(output)
        with pyro.plate("data", len(scaled), dim=-1), poutine.scale(scale=self.num_data / len(scaled)):
            response: Tensor = pyro.sample("y", self._observation(output), obs=None if y is None else y.to(self._y))
        return response

    def _observation(self, output: Tensor) -> Any:
        if self.likelihood == "gaussian":
            return dist.Normal(output, self.scale("noise"), validate_args=False)
        if self.likelihood == "bernoulli":
            return dist.Bernoulli(logits=output, validate_args=False)
        return dist.Poisson(output.clamp(max=_LARGEST_RATE).exp(), validate_args=False)

    # -- what was found -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def coefficients(self, guide: Any, level: float = 0.95) -> pd.DataFrame:
        """The posterior of the coefficients, in the units of ``X`` and ``y``.

        Args:
            guide: a :class:`~l0bayes.inference.HardConcreteGuide` of this model.
            level: of the intervals, in (0, 1).

        Returns:
            A row a predictor: ``name``, ``group``, ``p_nonzero`` of its gate, ``mean`` and ``sd`` of the coefficient,
            ``mean_open`` and ``sd_open`` of it given that it is there, and ``low`` and ``high`` of a central interval,
            from draws of the guide; 0 where it is not there.

        Raises:
            ValueError: if ``level`` is out of range.
        """
        return guided_coefficients(guide, level, self._gate_of, self._spread, (self.names, self.groups))
