"""``l0bayes select``: which columns of a table explain another."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from torch.distributions import Beta

from l0bayes.errors import DataError
from l0bayes.inference.command_line.report import write_figure
from l0bayes.inference.regression.inclusion import infer_inclusion
from l0bayes.inference.regression.inclusion_posterior import InclusionPosterior, Method
from l0bayes.inference.storage.files import write_bytes
from l0bayes.models import SpikeSlabRegression

_MODELS = 20  # most probable sets of columns, in the JSON file
_SHOWN = 20  # columns of a table on the screen


@dataclass(frozen=True)
class SelectOptions:
    """Options of ``l0bayes select``.

    Attributes:
        csv: a table with a header, a row an observation.
        response: the column to explain.
        drop: columns to leave out, such as identifiers.
        likelihood: of the response: ``gaussian``, ``bernoulli`` or ``poisson``.
        expected_open: columns that are expected to matter.
        inclusion: prior probability of a column, or A,B for one with a Beta(A, B) prior; one half if neither is given.
        noise_scale: standard deviation of the noise, if it is known.
        slab_scale: standard deviation of coefficients, in the units of the table, if it is known.
        method: ``auto``, ``exact``, ``gibbs``, ``mean-field``, ``binary``, ``mixture``, ``importance``.
        draws: of a sampler, at most.
        seed: of all draws.
        out: folder for ``inclusion.csv``, ``inclusion.png`` and ``inclusion.json``.
        level: of the intervals of coefficients.
    """

    csv: str
    response: str
    drop: list[str] = field(default_factory=list)
    likelihood: Literal["gaussian", "bernoulli", "poisson"] = "gaussian"
    expected_open: float | None = None
    inclusion: float | list[float] | None = None
    noise_scale: float | None = None
    slab_scale: float | None = None
    method: Method | Literal["auto"] = "auto"
    draws: int = 4000
    seed: int = 0
    out: str = "out/select"
    level: float = 0.95


def select(options: SelectOptions) -> str:
    """Infers inclusion probabilities, and writes a table, a picture and a JSON file.

    Args:
        options: what to explain by what.

    Returns:
        The table, the most probable columns first, and what speaks against it.

    Raises:
        DataError: if the table has no such column, or none that can be used.
    """
    model = _regression(options)
    found = infer_inclusion(model, options.method, draws=options.draws, seed=options.seed)
    table = _table(found, options.level)
    out = Path(options.out)
    write_bytes(out / "inclusion.csv", table.to_csv(index=False).encode())
    write_figure(out / "inclusion.png", _figure(found))
    write_bytes(out / "inclusion.json", (json.dumps(_facts(found, table, options), indent=2) + "\n").encode())
    rest = len(table) - _SHOWN
    lines = [
        _shown(table).head(_SHOWN).to_string(index=False, float_format="{:.4g}".format),
        *([f"… and {rest} more in inclusion.csv"] if rest > 0 else []),
        f"method  {found.method}, {found.seconds:.1f} s",
        f"kept    {', '.join(table['name'][table['inclusion'] >= 0.5]) or 'none'} (more probable than not)",  # noqa: PLR2004
        *(f"beware  {said}" for said in found.diagnostics),
        f"files   {out}",
    ]
    return "\n".join(lines)


def _regression(options: SelectOptions) -> SpikeSlabRegression:
    try:
        table = pd.read_csv(options.csv)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"csv: {options.csv} is no table with a header ({error})") from error
    for name, columns in (("response", [options.response]), ("drop", options.drop)):
        if missing := [column for column in columns if column not in table.columns]:
            shown = ", ".join(map(str, table.columns[:_SHOWN]))
            raise DataError(f"{name}: {options.csv} has no column {missing[0]!r}; it has {shown}")
    y = table.pop(options.response)
    inclusion: Any = options.inclusion
    if isinstance(inclusion, list):
        if len(inclusion) != 2 or not min(inclusion) > 0:  # noqa: PLR2004
            raise ValueError(f"inclusion: a Beta prior takes two numbers > 0; got {inclusion}")
        inclusion = Beta(float(inclusion[0]), float(inclusion[1]))
    given = {name: getattr(options, name) for name in ("noise_scale", "slab_scale", "expected_open")}
    return SpikeSlabRegression(
        table.drop(columns=options.drop), y, likelihood=options.likelihood, inclusion=inclusion, **given
    )


def _table(found: InclusionPosterior, level: float) -> pd.DataFrame:
    """Inclusion and coefficients, the most probable column first; intervals where there are any."""
    table = found.table if found.average is None else found.summary(level)
    return table.sort_values("inclusion", ascending=False, kind="stable").reset_index(drop=True)


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """Without a column of groups that says what the names say."""
    return table.drop(columns="group") if table["group"].equals(table["name"]) else table


def _figure(found: InclusionPosterior) -> Any:
    if found.average is not None:
        return found.plot()
    from matplotlib.figure import Figure  # noqa: PLC0415 (heavy)

    from l0bayes.posterior.pictures import plot_inclusion, plot_model_size  # noqa: PLC0415

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, width_ratios=(1.4, 1))
    order = (-found.inclusion).argsort(kind="stable")[:_MODELS]
    plot_inclusion({found.method: found.inclusion[order]}, [found.groups[gate] for gate in order], axes[0])
    plot_model_size(found.sizes, axes[1])
    return figure


def _facts(found: InclusionPosterior, table: pd.DataFrame, options: SelectOptions) -> dict[str, Any]:
    models = found.models.head(_MODELS)
    return {
        "method": found.method,
        "inclusion": dict(zip(table["name"], table["inclusion"].astype(float), strict=True)),
        "models": [
            {"columns": list(gates), "probability": float(probability)}
            for gates, probability in zip(models["gates"], models["probability"], strict=True)
        ],
        "sizes": [float(probability) for probability in found.sizes],
        "diagnostics": list(found.diagnostics),
        "options": asdict(options),
    }
