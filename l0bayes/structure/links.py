"""How information goes through a network: which features each weight reads, and which it makes."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Link:
    """A weight that reads features and makes others.

    Attributes:
        tensor: its name.
        makes_dim: the dimension along which it makes features.
        reads_dim: the dimension along which it reads them.
        makes: number of the feature at each position along ``makes_dim``; coupled features have one number.
        reads: number of the feature at each position along ``reads_dim``.
    """

    tensor: str
    makes_dim: int
    reads_dim: int
    makes: Tensor
    reads: Tensor


@dataclass(frozen=True)
class Links:
    """All of them, in the order of a run.

    Attributes:
        weights: the weights.
        sources: numbers of features that the network's inputs decide without any of these weights.
        sinks: numbers of features that leave the network, or enter what is not followed.
    """

    weights: tuple[Link, ...] = ()
    sources: frozenset[int] = frozenset()
    sinks: frozenset[int] = frozenset()
