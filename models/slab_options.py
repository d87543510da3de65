"""What can be said of the slab of a regression."""

import math
from typing import Any, Literal

from l0bayes.models.regression_data import read_numbers

LikelihoodName = Literal["gaussian", "bernoulli", "poisson"]
SlabName = Literal["zellner-siow", "unit-information", "learned"]


def default_slab(likelihood: str) -> SlabName:
    """That of a regression that is told nothing."""
    return "zellner-siow" if likelihood == "gaussian" else "unit-information"


def checked_slab_scale(likelihood: str, noise: float | None, slab_scale: Any, slab: str | None, columns: int) -> Any:
    """The slab's scale as it is kept: a number, one for each column as a tensor, or ``None``."""
    if likelihood != "gaussian" and noise is not None:
        raise ValueError(f"noise_scale is for likelihood='gaussian'; got {noise} with {likelihood!r}")
    if noise is not None and not 0 < noise < math.inf:
        raise ValueError(f"noise_scale must be finite and > 0, or None to learn it; got {noise}")
    if slab is not None and slab_scale is not None:
        raise ValueError(f"give slab_scale or slab, not both; got {slab_scale} and {slab!r}")
    if slab == "zellner-siow" and likelihood != "gaussian":
        raise ValueError(
            f"slab='zellner-siow' is for likelihood='gaussian'; take 'unit-information' for {likelihood!r}"
        )
    if slab_scale is None:
        return None
    scale = read_numbers("slab_scale", slab_scale)
    if scale.shape not in ((), (columns,)) or not bool((scale > 0).all()):
        raise ValueError(
            f"slab_scale must be finite and > 0, one number or one for each of the {columns} columns, or None for a "
            f"slab without units; got {slab_scale}"
        )
    return float(scale) if scale.dim() == 0 else scale
