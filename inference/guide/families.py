"""The variational family of one latent site: its parameters, its distribution, its quantiles."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import biject_to

from l0bayes.distributions import HardConcrete


class Family(ABC):
    """What a mean-field guide needs to know of a site. ``kinds`` names the parameters, in order of the arguments."""

    kinds: ClassVar[tuple[str, ...]]

    @abstractmethod
    def start(self, value: Tensor) -> tuple[Tensor, ...]:
        """Parameters to start from, for a site that starts at ``value``."""

    @abstractmethod
    def distribution(self, *parameters: Tensor) -> Any:
        """The distribution with these parameters, with the site's event dimensions."""

    @abstractmethod
    def quantile(self, level: Tensor, *parameters: Tensor) -> Tensor:
        """Quantiles at ``level``, which broadcasts against the parameters."""


@dataclass(frozen=True)
class GateFamily(Family):
    """Hard concrete gates that start with P(z ≠ 0) = ``init_open``."""

    event_dim: int
    stretch: tuple[float, float, float]
    init_open: float
    kinds: ClassVar = ("log_alpha",)

    def start(self, value: Tensor) -> tuple[Tensor, ...]:
        """Log α from logit P(z ≠ 0) = log α + a constant of the stretch."""
        offset = HardConcrete(torch.zeros((), dtype=torch.float64), *self.stretch).logit_nonzero
        log_alpha = torch.logit(torch.tensor(self.init_open, dtype=torch.float64)) - offset
        return (torch.full_like(value, log_alpha.item()),)

    def gate(self, log_alpha: Tensor) -> HardConcrete:
        """The gates with the site's shape as ``batch_shape``."""
        return HardConcrete(log_alpha, *self.stretch, validate_args=False)

    def distribution(self, *parameters: Tensor) -> Any:
        """Hard concrete."""
        gate: Any = self.gate(*parameters)
        return gate.to_event(self.event_dim)

    def quantile(self, level: Tensor, *parameters: Tensor) -> Tensor:
        """The generalised inverse of the distribution function."""
        return self.gate(*parameters).icdf(level)


@dataclass(frozen=True)
class NormalFamily(Family):
    """A normal, plain where the support is the real line, else pushed through ``biject_to(support)``."""

    event_dim: int
    support: Any
    init_scale: float
    kinds: ClassVar = ("loc", "log_scale")

    def start(self, value: Tensor) -> tuple[Tensor, ...]:
        """The value in unconstrained space, and the initial scale."""
        loc = biject_to(self.support).inv(value)
        return loc, torch.full_like(loc, self.init_scale).log()

    def distribution(self, *parameters: Tensor) -> Any:
        """Normal, or its image."""
        loc, log_scale = parameters
        normal = dist.Normal(loc, log_scale.exp(), validate_args=False)
        # A plain normal, since only plain ones have closed-form KLs.
        if isinstance(getattr(self.support, "base_constraint", self.support), type(constraints.real)):
            return normal.to_event(self.event_dim)
        transform = biject_to(self.support)
        image = dist.TransformedDistribution(normal.to_event(transform.domain.event_dim), [transform])
        return image.to_event(self.event_dim - image.event_dim)

    def quantile(self, level: Tensor, *parameters: Tensor) -> Tensor:
        """The image of the normal's quantiles."""
        loc, log_scale = parameters
        value: Tensor = biject_to(self.support)(dist.Normal(loc, log_scale.exp()).icdf(level))
        return value


@dataclass(frozen=True)
class BetaFamily(Family):
    """A Beta for a probability whose prior is one; it starts at the prior, whose KL is in closed form."""

    event_dim: int
    concentration1: Tensor
    concentration0: Tensor
    kinds: ClassVar = ("log_concentration1", "log_concentration0")

    def start(self, value: Tensor) -> tuple[Tensor, ...]:
        """The prior's concentrations."""
        return tuple(part.to(value).expand_as(value).log() for part in (self.concentration1, self.concentration0))

    def distribution(self, *parameters: Tensor) -> Any:
        """Beta."""
        concentration1, concentration0 = parameters
        beta: Any = dist.Beta(concentration1.exp(), concentration0.exp(), validate_args=False)
        return beta.to_event(self.event_dim)

    def quantile(self, level: Tensor, *parameters: Tensor) -> Tensor:
        """The inverse of the regularised incomplete Beta function."""
        from scipy.special import betaincinv  # noqa: PLC0415 (it changes the warning filters of who imports it)

        a, b = (parameter.detach().exp().double().cpu().numpy() for parameter in parameters)
        return torch.as_tensor(betaincinv(a, b, level.double().cpu().numpy())).to(parameters[0])


@dataclass(frozen=True)
class PointFamily(Family):
    """A point estimate."""

    event_dim: int
    support: Any
    kinds: ClassVar = ("loc",)

    def start(self, value: Tensor) -> tuple[Tensor, ...]:
        """The value in unconstrained space."""
        return (biject_to(self.support).inv(value),)

    def distribution(self, *parameters: Tensor) -> Any:
        """All mass at the point."""
        return dist.Delta(biject_to(self.support)(*parameters), event_dim=self.event_dim)

    def quantile(self, level: Tensor, *parameters: Tensor) -> Tensor:
        """The point, whatever the level."""
        (loc,) = parameters
        value: Tensor = biject_to(self.support)(loc)
        return value.expand(len(level), *value.shape).clone()
