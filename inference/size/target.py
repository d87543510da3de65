"""What is to be left of a network: a size to reach, instead of a price to pay."""

from dataclasses import dataclass
from typing import Literal, get_args

from l0bayes.arguments import check_fields

TargetOf = Literal["parameters", "macs", "latency"]

TOLERANCE = 0.05  # a keep ratio this far from its target, relatively, is said to have missed it


@dataclass(frozen=True)
class Target:
    """What is to be left of a network.

    Args:
        share: the keep ratio, of what the full network has, in (0, 1].
        of: ``"parameters"``, ``"macs"``, or ``"latency"``: the measured time of a forward pass on a batch like the
            training ones, for which expected MACs stand in where a gradient is needed.
        layers: pattern of names of the layers that it is about, as in ``fnmatch``; not for ``"latency"``.

    Raises:
        ValueError: if an argument is out of range.
    """

    share: float
    of: TargetOf = "parameters"
    layers: str = "*"

    def __post_init__(self) -> None:
        if not isinstance(self.share, int | float) or not 0 < self.share <= 1:
            raise ValueError(f"target: share must be in (0, 1]; got {self.share!r}")
        if self.of not in get_args(TargetOf):
            raise ValueError(f"target: of must be one of {', '.join(get_args(TargetOf))}; got {self.of!r}")
        if self.of == "latency" and self.layers != "*":
            raise ValueError(f"target: latency is that of the whole network; got layers={self.layers!r}")
        check_fields(self)

    def __str__(self) -> str:
        where = "" if self.layers == "*" else f" of {self.layers}"
        return f"{self.share:.3g} of the {self.of}{where}"
