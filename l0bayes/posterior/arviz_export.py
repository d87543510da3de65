"""Posterior draws as ArviZ data."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from l0bayes.arguments import check_guide, checked
from l0bayes.posterior.draws import Arrays, Draws, draws_of
from l0bayes.posterior.gate_table import labelled_model

_GROUPS = {"posterior_predictive": "predictive", "log_likelihood": "log_likelihood"}
_R_HAT = (
    "Each chain holds independent draws of one guide, trained by itself. R-hat across chains says whether the guides, "
    "of other seeds or settings, agree; within one guide it is 1 by construction, and says nothing about convergence. "
    "ESS says nothing either: no draw depends on another."
)


@checked
def to_arviz(
    guide: Any, num_samples: int = 1000, *, data: Sequence[Any] | None = None, weights: str | Sequence[str] = ()
) -> Any:
    """Draws of one or several guides, for ArviZ.

    Draws of a guide are independent, so ESS says nothing about them and R-hat within one guide nothing either. With
    one chain per guide, trained from different seeds, R-hat does say whether the seeds agree; ``attrs`` say so too.

    Args:
        guide: a guide with ``distributions()``, such as :class:`~l0bayes.inference.HardConcreteGuide`; or several of
            the same model, one chain each: a sequence, or a mapping, whose keys are in ``posterior.attrs["chains"]``;
            or what ``infer_inclusion`` or ``exact_posterior`` returned: ``included`` (0 or 1), ``coefficient`` in
            the user's units, ``intercept``, ``noise_scale`` and what else is unknown, with log-likelihoods and
            replicates; chains are those of the sampler, and R-hat and ESS mean what they say.
        num_samples: draws per guide, at least 1. They come from torch's global random state.
        data: arguments with which the guide's model observes, such as ``(x, y)``; ``()`` for a model that holds its
            data, as :class:`~l0bayes.models.SpikeSlabRegression` does. The model runs once for each draw.
        weights: names of the network's weights to add, as patterns (``"conv1.*"``): each as it is with its gates.

    Returns:
        What the installed ArviZ calls its data, ``InferenceData`` (0.x) or ``xarray.DataTree`` (1.x). Group
        ``posterior``: a variable per site, of shape ``(chain, draw, *site)``; gates along ``<site>_gate`` by their
        numbers, members of a regression by their names. With data also ``posterior_predictive``,
        ``log_likelihood`` (nats a datum, without the scale of a mini-batch) and ``observed_data``.

    Raises:
        ValueError: if there is no guide, ``num_samples`` is not positive, the guides' sites differ, or a pattern
            matches no weight.
        DataError: if the model observes nothing with these data, or only a part of them.
    """
    if hasattr(guide, "arviz_groups"):
        return _of_average(guide, num_samples)
    guides, chains = _named(guide)
    if not guides or num_samples < 1:
        raise ValueError(f"to_arviz needs at least one guide and num_samples >= 1; got {len(guides)}, {num_samples}")
    for one in guides:
        check_guide(one, "distributions", "gates", "numbers")
    draws = [draws_of(one, num_samples, data, weights) for one in guides]
    shapes = [{site: value.shape for site, value in one.posterior.items()} for one in draws]
    if any(other != shapes[0] for other in shapes):
        raise ValueError("guide: all guides must be of the same model, with the same sites, one chain each")
    groups: dict[str, Arrays] = {"posterior": _chains(draws, "posterior")}
    if data is not None:
        groups |= {group: _chains(draws, kind) for group, kind in _GROUPS.items()}
        groups["observed_data"] = draws[0].observed
    dims, coords = _labels(guides[0], draws[0])
    found = _as_arviz(groups, dims, coords)
    # Not as coordinates: ArviZ plots reckon with numbered chains.
    found["posterior"].attrs.update({"inference_library": "l0bayes", "r_hat": _R_HAT, "chains": chains})
    return found


def _of_average(found: Any, num_samples: int) -> Any:
    """Draws of a posterior over sets of predictors."""
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1; got {num_samples}")
    exported = _as_arviz(*found.arviz_groups(num_samples))
    exported["posterior"].attrs.update({"inference_library": "l0bayes", "method": found.how})
    return exported


def _named(guide: Any) -> tuple[list[Any], list[str]]:
    if isinstance(guide, Mapping):
        return list(guide.values()), [str(name) for name in guide]
    guides = list(guide) if isinstance(guide, Sequence) else [guide]
    return guides, [f"guide {number}" for number in range(len(guides))]


def _chains(draws: Sequence[Draws], kind: str) -> Arrays:
    return {name: np.stack([getattr(one, kind)[name] for one in draws]) for name in getattr(draws[0], kind)}


def _labels(guide: Any, draws: Draws) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """Names of dimensions by variable, and labels along them."""
    known = getattr(labelled_model(guide), "site_labels", {})
    numbers, dims, coords = guide.numbers(), {}, {}
    for site in guide.gates():
        if site not in known and draws.posterior[site].ndim == 2:  # noqa: PLR2004 (draws of one vector)
            dims[site] = [f"{site}_gate"]
            size = draws.posterior[site].shape[1]
            coords[f"{site}_gate"] = numbers[site].numpy() if site in numbers else np.arange(size)
    for site, (dim, labels) in known.items():
        dims[site], coords[dim] = [dim], list(labels)
    for name, value in draws.log_likelihood.items():
        dims[name] = [f"{name}_datum"] if value.ndim == 2 else dims.get(name, [])  # noqa: PLR2004
        if not dims[name]:
            del dims[name]
    return dims, coords


def _as_arviz(groups: dict[str, Any], dims: dict[str, list[str]], coords: dict[str, Any]) -> Any:
    import arviz  # noqa: PLC0415 (heavy, and import l0bayes must do without)

    if int(arviz.__version__.partition(".")[0]) >= 1:
        return arviz.from_dict(groups, dims=dims, coords=coords)
    return arviz.from_dict(**groups, dims=dims, coords=coords)
