"""The coefficients of a regression as a guide has them."""

from typing import Any

import pandas as pd
import torch
from torch import Tensor

_DRAWS = 20_000  # for intervals


def guided_coefficients(
    guide: Any, level: float, gate_of: Tensor, spread: Tensor, names: tuple[tuple[str, ...], tuple[str, ...]]
) -> pd.DataFrame:
    """The table of :meth:`~l0bayes.models.SpikeSlabRegression.coefficients`.

    Args:
        guide: with gates at site ``"gate"`` and coefficients of scaled columns at site ``"slab"``.
        level: of the intervals, in (0, 1).
        gate_of: for each column the number of its gate.
        spread: standard deviations of the columns.
        names: of the columns and of the gates.

    Raises:
        ValueError: if ``level`` is out of range.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1; got {level}")
    gate, slab = guide.gates()["gate"], guide.distributions()["slab"]
    probs = gate.prob_nonzero[gate_of]
    low, high = _interval(gate, slab, level, gate_of)
    loc, sd = slab.mean / spread, slab.stddev / spread
    share = gate.mean[gate_of]  # a relaxed gate may be open in part
    second = (gate.variance[gate_of] + share.square()) * (sd.square() + loc.square())
    columns = {
        "p_nonzero": probs,
        "mean": share * loc,
        "sd": (second - (share * loc).square()).clamp(min=0).sqrt(),
        "mean_open": share / probs * loc,
        "sd_open": (second / probs - (share / probs * loc).square()).clamp(min=0).sqrt(),
        "low": low / spread,
        "high": high / spread,
    }
    table = pd.DataFrame({name: value.cpu().numpy() for name, value in columns.items()})
    table.insert(0, "name", list(names[0]))
    table.insert(1, "group", [names[1][g] for g in gate_of.tolist()])
    return table


def _interval(gate: Any, slab: Any, level: float, gate_of: Tensor) -> tuple[Tensor, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        draws = gate.sample((_DRAWS,))[:, gate_of] * slab.sample((_DRAWS,))
    levels = draws.new_tensor([(1 - level) / 2, (1 + level) / 2])
    low, high = draws.quantile(levels, dim=0)
    return low, high
