"""The prior probability of an open gate: given, as a number of gates to expect, or itself unknown."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Beta, Independent


def check_inclusion(inclusion: Any, expected_open: Any = None, where: str = "") -> None:
    """Raises ``ValueError`` unless it can be a prior probability.

    Args:
        inclusion: a number in (0, 1), a Beta distribution, or ``None``.
        expected_open: a number > 0, or ``None``; not both.
        where: what to say of the place.
    """
    if expected_open is not None:
        if inclusion is not None:
            raise ValueError(
                f"give inclusion or expected_open, not both; got {inclusion!r} and {expected_open!r}{where}"
            )
        if isinstance(expected_open, bool) or not isinstance(expected_open, int | float) or not expected_open > 0:
            raise ValueError(f"expected_open must be a number of gates > 0; got {expected_open!r}{where}")
    if inclusion is None or isinstance(inclusion, Beta):
        return
    number = isinstance(inclusion, int | float) and not isinstance(inclusion, bool)
    if not number or not 0 < inclusion < 1:
        raise ValueError(
            f"inclusion must be a number strictly between 0 and 1, or a Beta distribution; got {inclusion!r}{where}. A "
            "gate that is always open or always closed needs no gate"
        )


def share_expected(expected_open: float, gates: int, where: str = "") -> float:
    """The prior probability under which so many of the gates are open on average.

    Raises:
        ValueError: if that is not less than all of them.
    """
    if not 0 < expected_open < gates:
        raise ValueError(
            f"expected_open must be more than 0 and less than the {gates} gates; got {expected_open!r}{where}"
        )
    return expected_open / gates


def read_inclusion(inclusion: Any, expected_open: Any, gates: int) -> Tensor | Beta:
    """The prior probabilities of some gates, of shape ``(gates,)``; or the Beta prior of the one that all share.

    Args:
        inclusion: a number, or one for each gate, in (0, 1); or a Beta distribution.
        expected_open: how many are open on average, instead.
        gates: how many there are.

    Raises:
        ValueError: if it can be none.
    """
    if expected_open is not None:
        check_inclusion(inclusion, expected_open)
        inclusion = share_expected(expected_open, gates)
    base = inclusion.base_dist if isinstance(inclusion, Independent) else inclusion
    if isinstance(base, Beta):
        if base.batch_shape.numel() != 1:
            raise ValueError(f"inclusion: one Beta prior for all gates; got a batch of shape {tuple(base.batch_shape)}")
        return base
    try:
        probs = torch.as_tensor(np.array(inclusion, dtype=np.float64)).expand(gates).clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"inclusion must be a number, one for each of the {gates} gates, or a Beta; got {inclusion!r}"
        ) from error
    if not ((probs > 0) & (probs < 1)).all():
        raise ValueError(f"inclusion must be strictly between 0 and 1, or a Beta distribution; got {inclusion!r}")
    return probs


def log_prob_of_size(prior: Beta, open_gates: Tensor, gates: int) -> Tensor:
    """Log-probability of a *set* of gates of a given size, π integrated out: B(a + k, b + n − k) / B(a, b).

    Args:
        prior: Beta(a, b).
        open_gates: k, of any shape; need not be whole.
        gates: n.
    """
    a, b = (float(getattr(prior, f"concentration{which}")) for which in (1, 0))
    return log_beta(a + open_gates, b + gates - open_gates) - log_beta(
        open_gates.new_tensor(a), open_gates.new_tensor(b)
    )


def log_beta(a: Tensor, b: Tensor) -> Tensor:
    """Logarithm of the Beta function."""
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
