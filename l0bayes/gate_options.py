"""What a user asks of a network's gates, layer by layer."""

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch.distributions import Beta

from l0bayes.checks import is_count
from l0bayes.distributions.gate_prior import check_code_cost
from l0bayes.distributions.prior_inclusion import check_inclusion, share_expected
from l0bayes.errors import StructureError
from l0bayes.structure import GRANULARITIES

COSTS = ("parameters", "macs", "paper")


@dataclass(frozen=True)
class GateOptions:
    """Options of the gates of one layer, as :func:`~l0bayes.sparsify` takes them.

    Attributes:
        gates: ``"unit"``, ``"input"`` or ``"weight"``.
        code_cost: nats per parameter (or multiply-accumulate) of the layer.
        inclusion: prior probability of an open gate, or its Beta prior, or ``None``.
        expected_open: how many gates of each group are open under the prior, instead, or ``None``.
        init_open: P(z ≠ 0) at the start.
        min_units: gates that stay at least, or ``None``.
    """

    gates: Any
    code_cost: float
    inclusion: float | Beta | None
    init_open: float
    min_units: int | None
    expected_open: float | None = None

    def checked(self, layer: str) -> "GateOptions":
        """These options, if every number is in its range.

        Raises:
            StructureError: if the granularity is unknown.
            ValueError: if a number is not.
        """
        if self.gates not in GRANULARITIES:
            raise StructureError(f"gates: {self.gates!r} for layer {layer!r} is none of {', '.join(GRANULARITIES)}")
        for name in ("code_cost", "init_open"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number:
                raise ValueError(f"{name} must be a number; got {value!r} for layer {layer!r}")
        check_code_cost(torch.as_tensor(float(self.code_cost)))
        if not 0 < self.init_open < 1:
            raise ValueError(
                f"init_open must be strictly between 0 and 1; got {self.init_open:g} for layer {layer!r}. A gate that "
                "is always open or always closed needs no gate"
            )
        check_inclusion(self.inclusion, self.expected_open, f" for layer {layer!r}")
        minimum = self.min_units
        if minimum is not None and not is_count(minimum, 0):
            raise ValueError(f"min_units must be an integer of at least 0; got {minimum!r} for layer {layer!r}")
        return self

    def inclusion_of(self, gates: int) -> float | Beta | None:
        """The prior probability of an open gate in a group of so many.

        Raises:
            ValueError: if as many as all of them are expected to be open.
        """
        if self.expected_open is None:
            return self.inclusion
        return share_expected(self.expected_open, gates, ". Say it by layer, or give inclusion")


def read_options(layer: str, value: Any, default: GateOptions) -> GateOptions:
    """Options of a layer: a granularity, or a mapping with one, over the defaults.

    Raises:
        StructureError: if it is neither, or an option is unknown.
        ValueError: if a number is out of range.
    """
    known = {field.name for field in fields(GateOptions)}
    options: dict[str, Any] = (
        {"gates": value} if isinstance(value, str) else dict(value) if isinstance(value, Mapping) else {"": value}
    )
    if set(options) - known or "gates" not in options:
        raise StructureError(
            f"gates: options for layer {layer!r} must be 'gates' and any of {sorted(known - {'gates'})}; got "
            f"{sorted(map(str, options))}"
        )
    for one, other in (("inclusion", "expected_open"), ("expected_open", "inclusion")):
        if one in options and other not in options:
            options[other] = None  # the default's
    return replace(default, **options).checked(layer)


def named_costs(
    code_cost: Any, gates: str | Mapping[str, Any], cost: str, num_data: int | None
) -> tuple[Any, str | Mapping[str, Any]]:
    """Code costs with numbers in place of the names ``"aic"`` and ``"bic"`` (paper, §2.1).

    Args:
        code_cost: a number or a name.
        gates: what is asked of each layer, perhaps with code costs of its own.
        cost: what is paid for.
        num_data: N.

    Returns:
        Both with numbers, in nats per parameter.

    Raises:
        ValueError: if a name is unknown, or goes with another cost, or N is missing.
    """

    def number(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value not in ("aic", "bic"):
            raise ValueError(f"code_cost must be a number, 'aic' or 'bic'; got {value!r}")
        if cost == "macs":
            raise ValueError(f"code_cost={value!r} is nats per parameter; it does not go with cost='macs'")
        if value == "aic":
            return 1.0
        if num_data is None or num_data < 1:
            raise ValueError(
                f"code_cost='bic' is half the logarithm of num_data, which must be given; got {num_data!r}"
            )
        return 0.5 * math.log(num_data)

    def numbers(asked: Any) -> Any:
        if not isinstance(asked, Mapping):
            return asked
        return {key: number(value) if key == "code_cost" else value for key, value in asked.items()}

    if isinstance(gates, Mapping):
        gates = {pattern: numbers(asked) for pattern, asked in gates.items()}
    return number(code_cost), gates


def match_layers(layers: Sequence[str], gates: str | Mapping[str, Any], others: Sequence[str] = ()) -> dict[str, Any]:
    """Assigns to each layer what the first matching pattern says.

    Args:
        layers: names of the network's layers.
        gates: one granularity for all layers, or a mapping from patterns of layer names (as in ``fnmatch``) to values.
        others: names of modules that cannot have gates, and have a price.

    Returns:
        Layer name to value, in the network's order.

    Raises:
        StructureError: if the network has no layer, or a pattern matches none.
    """
    if not layers:
        raise StructureError(
            "net has no layer that can be gated. Pass a network with linear layers, convolutions, embeddings or "
            "attention"
        )
    patterns = {"*": gates} if isinstance(gates, str) else dict(gates) if isinstance(gates, Mapping) else {}
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        raise StructureError(
            f"gates: must be one granularity for all layers, 'unit', 'input' or 'weight', or a mapping from patterns "
            f"of layer names to granularities or options; got {gates!r}"
        )
    for pattern in patterns:
        if not fnmatch.filter(layers, pattern):
            raise StructureError(
                f"gates: the pattern {pattern!r} matches no layer. Layers are {', '.join(map(repr, layers))}"
            )
    found = {}
    for layer in (*layers, *others):
        matching = [value for pattern, value in patterns.items() if fnmatch.fnmatchcase(layer, pattern)]
        if matching:
            found[layer] = matching[0]
    return found
