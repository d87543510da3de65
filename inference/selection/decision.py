"""Which gates are open, given the evidence for each and what is asked of the network's size.

Coordinate ascent on the ELBO gives a gate the log-odds ½F − Σₖ νₖ · (what it adds to the size k): code cost and prior
are a size in nats at the price ν = 1, and each target another, with a multiplier ν ≥ 0. The multipliers are found, not
followed: each is the smallest under which the open gates keep to their limit. What a gate adds depends on which others
are open, since a parameter is there while all gates over it are; it is counted at the network as it is.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Gates = Mapping[str, Tensor]

_SWEEPS = 6  # over several limits, each of which moves the others a little
_UP = 1 + 1e-12  # a gate at the threshold closes, whatever rounding does
_TRIES = 200  # gates that are tried for what is left at the end


@dataclass(frozen=True)
class Limit:
    """A size that the open gates must keep to.

    Attributes:
        size: of the network with given gates, group name to 0 and 1 or probabilities; differentiable.
        most: what the size may be at most.
        price: the largest multiplier; a limit that would need more is not kept. A code cost is such a limit: its size
            in nats at a price of 1.
    """

    size: Callable[[Gates], Tensor]
    most: float
    price: float = math.inf


@dataclass
class Decision:
    """The gates of a network, decided.

    Attributes:
        opened: group name to which of its gates are open.
        log_odds: group name to the posterior log-odds of its gates, in nats.
        multipliers: of the limits, in nats by unit of their size.
    """

    opened: dict[str, Tensor]
    log_odds: dict[str, Tensor]
    multipliers: list[float] = field(default_factory=list)


def marginal(size: Callable[[Gates], Tensor], opened: Gates) -> dict[str, Tensor]:
    """What each gate adds to a size while the others are as they are, in float64.

    Args:
        size: multilinear in the gates.
        opened: group name to which gates are open.
    """
    at = {name: gates.double().requires_grad_() for name, gates in opened.items()}
    with torch.enable_grad():
        total = size(at)
        slopes = (
            torch.autograd.grad(total, list(at.values()), allow_unused=True)
            if total.requires_grad
            else [None] * len(at)
        )
    return {name: torch.zeros_like(at[name]) if s is None else s for name, s in zip(at, slopes, strict=True)}


class Decider:
    """Decides over gates, from those that are open now.

    Args:
        opened: group name to which gates are open now; what gates add is counted there.
        nats: group name to the evidence for each gate, ½F.
        keep: gates that are open, and their log-odds, to those that are open with what must be kept.
    """

    def __init__(self, opened: Gates, nats: Gates, keep: Callable[[Gates, Gates], dict[str, Tensor]]) -> None:
        self._names = list(opened)
        self._sizes = [len(opened[name]) for name in self._names]
        self._opened = opened
        self._worth = self._flat(nats)
        self._keep = keep

    def _flat(self, by_group: Gates) -> Tensor:
        return torch.cat([by_group[name].detach().double().cpu() for name in self._names])

    def _by_group(self, flat: Tensor) -> dict[str, Tensor]:
        return dict(zip(self._names, flat.split(self._sizes), strict=True))

    def _open_above(self, log_odds: Tensor) -> dict[str, Tensor]:
        by_group = self._by_group(log_odds)
        return self._keep({name: odds > 0 for name, odds in by_group.items()}, by_group)

    def decide(self, limits: Sequence[Limit], *, fill: bool = False) -> Decision:
        """Chooses the gates that are open.

        Args:
            limits: the sizes to keep to.
            fill: whether gates are opened beyond that, the most probable first, as far as the limits leave room.

        Returns:
            The decision. Limits that ``min_units`` alone exceed are exceeded by as little as can be.
        """
        adds = [self._flat(marginal(one.size, self._opened)) for one in limits]
        multipliers = [0.0] * len(limits)
        for _ in range(_SWEEPS if len(limits) > 1 else 1):
            before = list(multipliers)
            for k, one in enumerate(limits):
                rest = self._worth - sum(
                    m * a for j, (m, a) in enumerate(zip(multipliers, adds, strict=True)) if j != k
                )
                multipliers[k] = min(self._smallest(rest, adds[k], one), one.price)
            if multipliers == before:
                break
        log_odds = self._worth - sum(m * a for m, a in zip(multipliers, adds, strict=True))
        opened = self._open_above(log_odds)
        if fill:
            strict = [(a, one) for a, one in zip(adds, limits, strict=True) if one.price == math.inf]
            log_odds = self._fill(log_odds, opened, strict)
        return Decision(opened, self._by_group(log_odds), multipliers)

    def _smallest(self, worth: Tensor, adds: Tensor, limit: Limit) -> float:
        """The smallest multiplier under which the open gates keep to a limit."""
        if limit.most <= 0 and limit.price < math.inf:
            return limit.price
        if self._fits(self._open_above(worth), limit):
            return 0.0
        matters = (adds > 0) & (worth > 0)
        closes_at = (worth[matters] / adds[matters]).unique() * _UP  # sorted: the multiplier at which each gate closes
        low, high = -1, len(closes_at) - 1
        while high - low > 1:  # at low it does not fit
            middle = (low + high) // 2
            fits = self._fits(self._open_above(worth - float(closes_at[middle]) * adds), limit)
            low, high = (low, middle) if fits else (middle, high)
        return float(closes_at[high]) if len(closes_at) else 0.0

    @staticmethod
    def _fits(opened: Gates, limit: Limit) -> bool:
        with torch.no_grad():
            return float(limit.size({name: gates.double() for name, gates in opened.items()})) <= limit.most

    def _fill(self, log_odds: Tensor, opened: dict[str, Tensor], limits: Sequence[tuple[Tensor, Limit]]) -> Tensor:
        """Opens gates, in place, in the order of their log-odds by what they add; returns log-odds that agree."""
        if not limits:
            return log_odds
        flat = torch.cat([opened[name] for name in self._names])
        share = torch.stack([adds / one.most for adds, one in limits]).amax(0)
        closed = (~flat & (self._worth > 0) & (share > 0)).nonzero().squeeze(1)
        order = closed[(log_odds[closed] / share[closed]).argsort(descending=True)]
        log_odds = log_odds.clone()
        for gate in order[:_TRIES].tolist():
            flat[gate] = True
            if all(self._fits(self._by_group(flat), one) for _, one in limits):
                log_odds[gate] = torch.finfo(log_odds.dtype).eps  # undecided, and open
            else:
                flat[gate] = False
        opened.update(self._by_group(flat))
        return log_odds
