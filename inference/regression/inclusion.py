"""Posterior inclusion probabilities of a regression: enumerated, sampled or approximated, and whether to trust them."""

import time
import warnings
from dataclasses import replace
from typing import Literal, cast, get_args

from l0bayes.arguments import checked_but
from l0bayes.errors import UntrustedPosteriorWarning
from l0bayes.inference.regression.collapsed_methods import by_enumeration, by_gibbs, by_laplace
from l0bayes.inference.regression.inclusion_posterior import InclusionPosterior, Method
from l0bayes.inference.regression.variational import FEWEST, by_importance
from l0bayes.models import SpikeSlabRegression

_METHODS = ("auto", *get_args(Method))
_FEW_GATES = 14  # 2^14 sets are enumerated in less than the time of sampling
_FEW_FOR_LAPLACE = 10  # where each set needs Newton's method
_MOST_GATES = 20  # to enumerate, however long it takes


@checked_but("method")
def infer_inclusion(
    model: SpikeSlabRegression,
    method: Method | Literal["auto", "resampled"] = "auto",
    *,
    starts: int = 32,
    draws: int = 4000,
    chains: int | None = None,
    seed: int = 0,
    guide: str | None = None,
) -> InclusionPosterior:
    """Infers which gates of a regression are open.

    With ``"exact"`` and ``"gibbs"`` nothing is plugged in: coefficients are integrated out, and so are the noise, the
    scale of the slab and the prior inclusion probability wherever the model does not know them; ``slab="learned"`` is
    the slab, relative to the noise, under which the data are most probable. For Gaussian responses
    that is in closed form; for logistic and Poisson regression coefficients are integrated by Laplace's method, about
    the mode of each set.

    Args:
        model: the regression.
        method: ``"exact"``: all sets of gates, at most 2^20. ``"gibbs"``: collapsed Gibbs sampling in continuous time,
            with exchanges of gates and several chains, any number of columns, see
            :mod:`~l0bayes.inference.regression.gibbs_chains`; for logistic and Poisson regression with rates that are
            guessed and corrected, see :mod:`~l0bayes.inference.regression.laplace_chains`. ``"auto"``: the first where
            there are up to 14 gates (10 for other responses), else the second; for logistic and Poisson regression with
            ``slab="learned"`` ``"importance"``. The others learn by SVI, and then take for known, what the model does
            not know:
            ``"mean-field"``: a hard concrete guide by SVI, 1500 steps over all the data; errs where predictors are
            correlated, and by its relaxation. ``"binary"``: mean field with binary gates by coordinate ascent, without
            the relaxation's error; milliseconds. ``"mixture"``: the distinct ends of ``starts`` of those, weighted by
            their ELBOs; as many times the cost. ``"importance"``: importance sampling, draws from that mixture, adapted
            to what they show and weighted by their marginal likelihoods, with the coefficients integrated out; at most
            ``2 * draws`` evaluations of p³ operations, 4 rounds. For logistic and Poisson regression the marginal
            likelihood is Laplace's approximation, and ``"binary"`` and ``"mixture"`` are about the mode of the full
            model.
        starts: of coordinate ascent.
        draws: of ``"gibbs"``: changes of each chain after the warm-up; fewer if all Monte Carlo standard errors are
            below 0.005 before, up to four times as many as long as one is above 0.01. Of importance sampling: in each
            of two independent runs, whose agreement is part of the diagnosis; the variational methods are checked
            against them too.
        chains: of ``"gibbs"``; 16, or 8 with more than 500 columns, if ``None``.
        seed: of all draws.
        guide: what ``method`` was called before; deprecated.

    Returns:
        The posterior. If it should not be trusted it says why, and there is a warning.

    Raises:
        ValueError: if an argument is out of range, or the method cannot be used with this model.
    """
    chosen = _known_method(method, guide)
    if starts < 1 or draws < 2 * FEWEST or (chains is not None and chains < 2):  # noqa: PLR2004 (to be compared)
        wrong = f"got {starts} and {draws}" if chains is None or chains > 1 else f"and chains at least 2; got {chains}"
        raise ValueError(f"starts must be at least 1, draws at least {2 * FEWEST}; {wrong}")
    if chosen == "auto":
        chosen = _automatic(model)
    begin = time.perf_counter()
    if chosen == "gibbs":
        _check_slab(model, "gibbs")
        found = by_gibbs(model, chains, draws, seed)
    elif chosen == "exact":
        _check_exact(model)
        found = by_enumeration(model) if model.likelihood == "gaussian" else by_laplace(model)
    else:
        if model.has_rules:
            raise ValueError(f"always= and parents= need method='exact' or 'gibbs'; got {chosen!r}")
        found = by_importance(model, chosen, starts, draws, seed)
    for diagnostic in found.diagnostics:
        warnings.warn(f"infer_inclusion, method={chosen!r}: {diagnostic}", UntrustedPosteriorWarning, stacklevel=3)
    return replace(found, seconds=time.perf_counter() - begin)


def _known_method(method: str, guide: str | None) -> Method | Literal["auto"]:
    """The method that is asked for, by whatever name it has or had."""
    if guide is not None:
        warnings.warn("infer_inclusion: guide= is called method= now", DeprecationWarning, stacklevel=4)
        method = guide
    if method == "resampled":
        warnings.warn("infer_inclusion: 'resampled' is called 'importance' now", DeprecationWarning, stacklevel=4)
        method = "importance"
    for known in _METHODS:
        if method == known:
            return cast("Method", known)
    raise ValueError(f"method must be one of {', '.join(_METHODS)}; got {method!r}")


def _automatic(model: SpikeSlabRegression) -> Method:
    if model.slab == "learned" and model.likelihood != "gaussian":
        return "importance"
    few = _FEW_GATES if model.likelihood == "gaussian" else _FEW_FOR_LAPLACE
    return "exact" if len(model.groups) <= few else "gibbs"


def _check_exact(model: SpikeSlabRegression) -> None:
    if len(model.groups) > _MOST_GATES:
        raise ValueError(f"method='exact' is for up to {_MOST_GATES} gates; got {len(model.groups)}. Use 'gibbs'")
    _check_slab(model, "exact")


def _check_slab(model: SpikeSlabRegression, method: str) -> None:
    if model.slab == "learned" and model.likelihood != "gaussian":
        raise ValueError(
            f"method={method!r} learns a slab for likelihood='gaussian' only. Use slab='unit-information' or a "
            "slab_scale, or method='importance'"
        )
