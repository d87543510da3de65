"""The posterior of the gates as a table."""

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch

from l0bayes.arguments import check_guide, checked
from l0bayes.distributions.hard_concrete import PointRule
from l0bayes.posterior.agreement import agreement


@checked
@torch.no_grad()
def gate_table(guide: Any, rule: str = "paper") -> pd.DataFrame:
    """One row a gate; of several guides, how far they agree.

    Args:
        guide: a guide with ``gates()``, such as :class:`~l0bayes.inference.HardConcreteGuide`; or a mapping from names
            to guides of one model, to compare them, see :func:`~l0bayes.posterior.agreement.agreement`. What
            ``infer_inclusion`` and ``exact_posterior`` return will do for a guide.
        rule: how the test-time gate is chosen, see :meth:`~l0bayes.HardConcrete.point`.

    Returns:
        Columns ``site``, ``layer`` (the site's name up to its last dot), ``group`` (what the gate decides over: the
        gate group of a network, which is the site, or the group of predictors), ``index`` (position in the flattened
        site; of a network that was shrunk, in the full one), ``p_nonzero`` = P(z ≠ 0), ``p_one`` = P(z = 1), ``mean``
        and ``sd`` of z, ``mean_open`` and ``sd_open`` of it given that it is not 0, ``point_paper``, ``point_median``
        and ``point_mean`` (the test-time gate by each rule), ``point`` (by the rule asked for) and ``open`` (whether
        that is not 0). Of a regression each of whose coefficients has a gate of its own also ``coefficient``, its
        posterior mean, and ``low`` and ``high``, a central 95 % interval, in the user's units; where gates are shared
        they are in :meth:`~l0bayes.models.SpikeSlabRegression.coefficients`.

    Raises:
        ValueError: if the guide has no gates, the rule is unknown, or guides to compare have other gates.
    """
    if hasattr(guide, "gate_rows"):
        rows: pd.DataFrame = guide.gate_rows()
        if rule not in get_args(PointRule):
            raise ValueError(f"rule must be one of {', '.join(get_args(PointRule))}; got {rule!r}")
        return rows
    if isinstance(guide, Mapping):
        return agreement({name: gate_table(one, rule) for name, one in guide.items()})
    check_guide(guide, "point", "gates", "numbers")
    points = {name: guide.point(name) for name in get_args(PointRule)}
    chosen = points[rule] if rule in points else guide.point(rule)
    numbers = guide.numbers()
    model = labelled_model(guide)
    labels = getattr(model, "site_labels", {})
    tables = []
    for site, gate in guide.gates().items():
        columns = {
            "p_nonzero": gate.prob_nonzero,
            "p_one": gate.prob_one,
            "mean": gate.mean,
            "sd": gate.variance.sqrt(),
            "mean_open": gate.mean / gate.prob_nonzero,
            "sd_open": _sd_open(gate),
            **{f"point_{name}": values[site] for name, values in points.items()},
            "point": chosen[site],
            "open": chosen[site] != 0,
        }
        table = pd.DataFrame({name: value.flatten().cpu().numpy() for name, value in columns.items()})
        table.insert(0, "site", site)
        table.insert(1, "layer", site.rpartition(".")[0] or site)
        table.insert(2, "group", list(labels[site][1]) if site in labels else site)
        table.insert(3, "index", numbers[site].numpy() if site in numbers else np.arange(len(table)))
        tables.append(table)
    if not tables:
        raise ValueError("guide has no gate sites; give sites L0Prior, SpikeAndSlabPrior or HardConcrete as prior")
    return _with_coefficients(pd.concat(tables, ignore_index=True), model, guide)


def labelled_model(guide: Any) -> Any:
    """The model of a guide, which may have labels for its sites; ``None`` if it has none, or none that labels."""
    return guide.labelled_model if hasattr(type(guide), "labelled_model") else getattr(guide, "model", None)


def _with_coefficients(table: pd.DataFrame, model: Any, guide: Any) -> pd.DataFrame:
    if not hasattr(model, "coefficients"):
        return table
    found: pd.DataFrame = model.coefficients(guide)
    if not found["group"].is_unique:
        return table
    return table.assign(coefficient=found["mean"], low=found["low"], high=found["high"])


def _sd_open(gate: Any) -> Any:
    """Standard deviation of a gate given that it is not 0: there its moments are those of the gate over P(z ≠ 0)."""
    share = gate.prob_nonzero
    second = (gate.variance + gate.mean.square()) / share
    return (second - (gate.mean / share).square()).clamp(min=0).sqrt()
