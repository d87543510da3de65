"""Posterior draws as ArviZ data."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch


@torch.no_grad()
def to_arviz(guide: Any, num_samples: int = 1000) -> Any:
    """Draws of every latent site of one or several guides, for ArviZ.

    Draws of a guide are independent, so ESS says nothing about them and R-hat within one guide nothing either. With
    one chain per guide, trained from different seeds, R-hat does say whether the seeds agree.

    Args:
        guide: a guide with ``distributions()``, such as :class:`~l0bayes.inference.HardConcreteGuide`; or a
            sequence or mapping of guides of the same model, one chain each, in that order.
        num_samples: draws per guide, at least 1. They come from torch's global random state.

    Returns:
        What the installed ArviZ calls its data, ``InferenceData`` (0.x) or ``xarray.DataTree`` (1.x), with group
        ``posterior``: a variable per site, of shape ``(chain, draw, *site)``.

    Raises:
        ValueError: if there is no guide, ``num_samples`` is not positive, or the guides' sites differ.
    """
    import arviz  # noqa: PLC0415 (heavy, and import l0bayes must do without)

    if isinstance(guide, Mapping):
        guides = list(guide.values())
    else:
        guides = list(guide) if isinstance(guide, Sequence) else [guide]
    if not guides or num_samples < 1:
        raise ValueError(f"to_arviz needs at least one guide and num_samples >= 1; got {len(guides)}, {num_samples}")
    chains = [
        {site: fn.sample((num_samples,)).cpu().numpy() for site, fn in one.distributions().items()} for one in guides
    ]
    shapes = [{site: draws.shape for site, draws in chain.items()} for chain in chains]
    if any(other != shapes[0] for other in shapes):
        raise ValueError("guide: all guides must be of the same model, with the same sites, one chain each")
    posterior = {site: np.stack([chain[site] for chain in chains]) for site in chains[0]}
    if int(arviz.__version__.partition(".")[0]) >= 1:
        return arviz.from_dict({"posterior": posterior})
    return arviz.from_dict(posterior=posterior)
