"""What can be asked of a posterior over sets of predictors, however it was found."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from l0bayes.errors import DataError
from l0bayes.models.prediction_data import read_new_rows
from l0bayes.models.regression_data import read_offset
from l0bayes.models.set_average import SetAverage

Arr = np.ndarray

_SHOWN = 12  # predictors in a printed posterior
_HALF = 0.5  # the median probability model is from here on
_ROWS = 512  # predicted at a time
_MODELS = 25  # in the picture
_CHAINS = 4  # into which independent draws are divided for ArviZ


class Averaged(ABC):
    """Posteriors over sets of predictors: summaries, predictions and comparisons by model averaging.

    Attributes:
        groups: names of the gates; of the predictors, where each has a gate of its own.
        inclusion: posterior probabilities of the gates, of shape ``(gates,)``.
        sizes: probabilities of 0, 1, … open gates.
        average: the sets of columns behind it; ``None`` where the method has none.
    """

    groups: tuple[str, ...]
    inclusion: Arr
    sizes: Arr
    average: SetAverage | None

    @property
    @abstractmethod
    def how(self) -> str:
        """The method, in words, for errors and titles."""

    @property
    @abstractmethod
    def moments(self) -> pd.DataFrame:
        """A row a predictor: ``name``, ``group``, ``inclusion``, ``mean``, ``sd``, and errors where there are any."""

    def _average(self) -> SetAverage:
        if self.average is None:
            raise ValueError(
                f"{self.how} has no sets of predictors to average over. Use infer_inclusion(model) with method='exact' "
                "or 'gibbs', or exact_posterior(…, prior='normal')"
            )
        return self.average

    # -- coefficients -------------------------------------------------------------------------------------------

    def summary(self, level: float = 0.95) -> pd.DataFrame:
        """The coefficients under model averaging, in the units of ``X`` and ``y``.

        Args:
            level: of the intervals, in (0, 1).

        Returns:
            A row a predictor: ``name``, ``group``, ``inclusion`` of its gate (and ``mcse``, ``rhat`` and ``ess`` where
            it was sampled), ``mean`` and ``sd`` of the coefficient, ``low`` and ``high`` of a central interval, 0 where
            it is not there, and ``mean_open`` and ``sd_open`` given that it is.

        Raises:
            ValueError: if ``level`` is out of range, or the method has no sets to average over.
        """
        tail = _tail("level", level)
        draws = self._average().standard_draws
        table = self.moments.copy()
        flat = draws.coefficient.reshape(-1, draws.coefficient.shape[-1])
        table["low"], table["high"] = np.quantile(flat, [tail, 1 - tail], axis=0)
        share = table["inclusion"].clip(lower=1e-300)
        table["mean_open"] = table["mean"] / share
        second = (table["sd"] ** 2 + table["mean"] ** 2) / share
        table["sd_open"] = (second - table["mean_open"] ** 2).clip(lower=0) ** 0.5
        return table

    @property
    def scales(self) -> pd.DataFrame:
        """Posteriors of what is unknown beside the coefficients: rows ``noise_scale``, ``slab_scale``, ``inclusion``.

        ``slab_scale``, where it is unknown, is in units of the noise per standard deviation of a column, or, if it was
        learned as a point, per unit of the columns; ``inclusion``
        is the prior probability, where that has a Beta prior. Columns ``mean``, ``sd``, ``low``, ``median``, ``high``
        (95 %).
        """
        draws = self._average().standard_draws
        known = {"noise_scale": draws.noise, "slab_scale": draws.slab, "inclusion": draws.share}
        rows = {}
        for name, values in known.items():
            if values is not None:
                low, median, high = np.quantile(values, [0.025, 0.5, 0.975])
                rows[name] = {"mean": values.mean(), "sd": values.std(), "low": low, "median": median, "high": high}
        return pd.DataFrame(rows).T

    def predict(
        self,
        X_new: Any,  # noqa: N803
        interval: float | None = 0.95,
        *,
        noise: bool = True,
        offset: Any = None,
        exposure: Any = None,
    ) -> pd.DataFrame:
        """Model-averaged predictions.

        Args:
            X_new: predictors of new rows, of shape ``(rows, p)``; columns of a data frame go by their names.
            interval: level of the intervals; ``None`` for none.
            noise: whether intervals are for responses (the posterior predictive) or for their means.
            offset: of the new rows, where the regression has one.
            exposure: of the new rows, where the regression has one.

        Returns:
            A row a row: ``mean``, ``sd``, and ``low`` and ``high`` of a central interval, by draws of sets, scales and
            coefficients. ``mean`` is that of the response: a probability, a rate; for Gaussian responses by averaging
            exactly over what was found.

        Raises:
            DataError: if they are not finite numbers, or columns or offsets are missing.
            ValueError: if ``interval`` is out of range, or the method has no sets to average over.
        """
        tail = None if interval is None else _tail("interval", interval)
        average = self._average()
        x, index = read_new_rows(X_new, average.data.names)
        centred = x - average.data.x_mean.numpy()
        known = read_offset(X_new, offset, exposure, len(x))
        if (known is None) != (average.data.offset is None):
            raise DataError(
                "offset or exposure must be given: the regression has one"
                if known is None
                else "offset and exposure must not be given: the regression has none"
            )
        shift = np.zeros(len(x)) if known is None else known.numpy()
        draws, rng = average.standard_draws, np.random.default_rng(0)
        slopes = draws.coefficient.reshape(-1, x.shape[1])
        spread = None if draws.noise is None else draws.noise.ravel()
        parts = []
        for start in range(0, len(x), _ROWS):
            rows = x[start : start + _ROWS]
            output = rows @ slopes.T + draws.intercept.ravel() + shift[start : start + _ROWS, None]
            means = average.expected(output)
            drawn = average.replicate(output, spread, rng) if noise else means
            found = {"mean": means.mean(1), "sd": drawn.std(1)}
            if tail is not None:
                found["low"], found["high"] = np.quantile(drawn, [tail, 1 - tail], axis=1)
            parts.append(pd.DataFrame(found))
        table = pd.concat(parts, ignore_index=True)
        if draws.noise is not None:  # of a linear predictor the mean is known without draws
            table["mean"] = shift + average.data.y_mean + centred @ self.moments["mean"].to_numpy()
        return table if index is None else table.set_axis(index)

    # -- sets ---------------------------------------------------------------------------------------------------

    @property
    def median_model(self) -> list[str]:
        """Gates with probability of at least one half (Barbieri and Berger 2004, Annals of Statistics 32)."""
        return [name for name, prob in zip(self.groups, self.inclusion, strict=True) if prob >= _HALF]

    @property
    def best_model(self) -> list[str]:
        """The most probable set of gates."""
        return [self.groups[gate] for gate in self._average().top(1)[0][0]]

    def top_models(self, number: int = 10) -> pd.DataFrame:
        """The most probable sets: columns ``predictors`` (names of the open gates), ``size`` and ``probability``."""
        return self._average().named(number)

    def coefficients_of(self, predictors: Sequence[str]) -> pd.DataFrame:
        """The coefficients of one set, such as :attr:`median_model`: ``name``, ``mean`` and ``sd``, scales integrated.

        Raises:
            ValueError: if a name is unknown, or the method has no sets.
        """
        average = self._average()
        columns = self._columns("predictors", predictors)
        mean, sd = average.coefficients_of(columns)
        names = [average.data.names[column] for column in columns]
        return pd.DataFrame({"name": names, "mean": mean, "sd": sd})

    def bayes_factor(self, first: Sequence[str], second: Sequence[str] = (), *, log: bool = False) -> float:
        """How much more probable the data are under one set of gates than under another, scales integrated out.

        Args:
            first: names of the gates that are open.
            second: those of the other set; none by default.
            log: whether in nats.

        Raises:
            ValueError: if a name is unknown, or the method has no sets.
        """
        average = self._average()
        one, other = (
            average.log_marginal(self._columns(which, names)) for which, names in (("first", first), ("second", second))
        )
        with np.errstate(over="ignore"):
            return one - other if log else float(np.exp(one - other))

    def _numbers(self, argument: str, names: Sequence[str]) -> list[int]:
        if unknown := [name for name in names if name not in self.groups]:
            raise ValueError(f"{argument}: {unknown[0]!r} is none of {', '.join(self.groups)}")
        return [self.groups.index(name) for name in dict.fromkeys(names)]

    def _columns(self, argument: str, names: Sequence[str]) -> list[int]:
        gates = self._numbers(argument, names)
        columns: list[int] = np.isin(self._average().gate_of, gates).nonzero()[0].tolist()
        return columns

    # -- for others ---------------------------------------------------------------------------------------------

    def gate_rows(self) -> pd.DataFrame:
        """What :func:`~l0bayes.gate_table` shows: gates that are 0 or 1."""
        probs, size = self.inclusion, len(self.groups)
        opened = probs >= _HALF
        columns: dict[str, Any] = {
            "site": "gate",
            "layer": "gate",
            "group": list(self.groups),
            "index": np.arange(size),
        }
        columns |= {"p_nonzero": probs, "p_one": probs, "mean": probs, "sd": np.sqrt(probs * (1 - probs))}
        columns |= {"mean_open": np.ones(size), "sd_open": np.zeros(size)}
        columns |= {f"point_{rule}": opened.astype(float) for rule in ("paper", "median", "mean")}
        table = pd.DataFrame(columns | {"point": opened.astype(float), "open": opened})
        if self.average is None or not self.moments["group"].is_unique:
            return table
        found = self.summary()
        return table.assign(coefficient=found["mean"], low=found["low"], high=found["high"])

    def arviz_groups(self, number: int) -> tuple[dict[str, dict[str, Arr]], dict[str, list[str]], dict[str, Any]]:
        """What :func:`~l0bayes.to_arviz` exports: draws by group and variable, dimensions, and labels along them.

        Args:
            number: draws of each chain.
        """
        average = self._average()
        draws = average.draws(number, 1) if average.in_time else average.draws(_CHAINS * number, 1).split(_CHAINS)
        known = {"noise_scale": draws.noise, "slab_scale": draws.slab, "inclusion": draws.share}
        posterior = {"included": draws.included.astype(np.int8), "coefficient": draws.coefficient}
        posterior |= {"intercept": draws.intercept}
        posterior |= {name: values for name, values in known.items() if values is not None}
        x, y = average.data.observed
        shift = 0.0 if average.data.offset is None else average.data.offset.numpy()
        y = y + shift if draws.noise is not None else y  # that of Gaussian responses was taken off them
        output = draws.coefficient @ x.T + draws.intercept[..., None] + shift
        noise = None if draws.noise is None else draws.noise[..., None]
        groups = {
            "posterior": posterior,
            "posterior_predictive": {"y": average.replicate(output, noise, np.random.default_rng(2))},
            "log_likelihood": {"y": average.log_lik(y, output, noise)},
            "observed_data": {"y": y},
        }
        dims = {"included": ["group"], "coefficient": ["predictor"], "y": ["y_datum"]}
        coords = {"group": list(self.groups), "predictor": list(average.data.names), "y_datum": np.arange(len(y))}
        return groups, dims, coords

    def plot(self) -> Any:
        """A figure of three pictures: inclusion, the most probable sets, and the sizes of the sets."""
        import matplotlib.pyplot as plt  # noqa: PLC0415 (heavy, and import l0bayes must do without)

        from l0bayes.posterior.pictures import plot_inclusion, plot_model_size, plot_model_space  # noqa: PLC0415

        figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained", width_ratios=(1.4, 1.4, 1))
        order = np.argsort(-self.inclusion, kind="stable")[:_MODELS]
        names = [self.groups[gate] for gate in order]
        plot_inclusion({self.how: self.inclusion[order]}, names, axes[0])
        plot_model_space(self.top_models(_MODELS), names, axes[1])
        plot_model_size(self.sizes, axes[2])
        return figure

    def __repr__(self) -> str:
        order = np.argsort(-self.inclusion, kind="stable")
        table = self.moments.iloc[np.argsort(-self.moments["inclusion"].to_numpy(), kind="stable")[:_SHOWN]]
        rest = len(self.moments) - len(table)
        names = [self.groups[gate] for gate in order if self.inclusion[gate] >= _HALF]
        return "\n".join(
            [
                f"{type(self).__name__}: {self.how}, {len(self.groups)} gates",
                table.to_string(index=False, float_format="{:.3g}".format),
                *([f"… and {rest} more"] if rest else []),
                f"median model: {', '.join(names) or 'none'}",
            ]
        )


def _tail(name: str, level: float) -> float:
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
        raise ValueError(f"{name} must be between 0 and 1; got {level!r}")
    return (1 - level) / 2
