"""How far the gates of several guides agree: of other seeds, priors or methods."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import pandas as pd


def agreement(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Compares gate tables pair by pair.

    Args:
        tables: name to a table from :func:`~l0bayes.gate_table`; all of the same gates.

    Returns:
        A row for each pair and site, and one for each pair over all sites, ``"all"``: ``first``, ``second``, ``site``,
        ``gates``, ``mean_difference`` and ``largest_difference`` of P(z ≠ 0), ``rank_correlation`` of it (Spearman's;
        NaN where one guide has the same for all gates), ``agreement`` (share of gates that are open in both, or closed
        in both) and ``overlap`` (gates open in both over gates open in one of them, Jaccard's index; 1 if there are
        none).

    Raises:
        ValueError: if there are fewer than two tables, or they are not of the same gates.
    """
    if len(tables) < 2:  # noqa: PLR2004
        raise ValueError(f"guide: a comparison takes at least two guides; got {len(tables)}")
    keys = ["site", "index"]
    first, *others = tables.items()
    for name, table in others:
        if not table[keys].equals(first[1][keys]):
            raise ValueError(f"guide: {name!r} has other gates than {first[0]!r}; compare guides of one model")
    rows = []
    for (one, a), (other, b) in combinations(tables.items(), 2):
        parts: dict[Any, Any] = dict(iter(a.groupby("site", sort=False).groups.items()))
        for site, at in {**parts, "all": a.index}.items():
            rows.append({"first": one, "second": other, "site": site, **_pair(a.loc[at], b.loc[at])})
    return pd.DataFrame(rows)


def _pair(a: pd.DataFrame, b: pd.DataFrame) -> dict[str, float]:
    difference = (a["p_nonzero"] - b["p_nonzero"]).abs()
    ranks = a["p_nonzero"].rank(), b["p_nonzero"].rank()
    constant = any(bool((rank == rank.iloc[0]).all()) for rank in ranks)
    both, either = (a["open"] & b["open"]).sum(), (a["open"] | b["open"]).sum()
    return {
        "gates": len(a),
        "mean_difference": float(difference.mean()),
        "largest_difference": float(difference.max()),
        "rank_correlation": float("nan") if constant else float(ranks[0].corr(ranks[1])),
        "agreement": float((a["open"] == b["open"]).mean()),
        "overlap": float(both / either) if either else 1.0,
    }
