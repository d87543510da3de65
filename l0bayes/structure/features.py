"""Features, as labels that ride along with a network's tensors.

Every feature that a layer produces gets a label, a positive integer; a tensor's labels say, element by element,
which feature it belongs to, 0 standing for none. Labels go through the network's own reshapes, slices and
concatenations as the data do, so nothing about a layout has to be guessed. Where features meet (a sum, a product, a
normalisation over them), they are *tied*: what is tied, directly or not, is coupled, and
closes or opens together.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_LARGE = 4096  # below this, looking for repetitions costs more than they do


class Features:
    """Hands out labels, and remembers which are tied and which cannot be taken out."""

    def __init__(self) -> None:
        self._count = 0
        self._ties: list[Tensor] = []
        self._frozen: dict[int, str] = {}
        self._sources: list[Tensor] = [torch.zeros(1, dtype=torch.int64)]  # what carries no label may carry the inputs
        self._sinks: list[Tensor] = [torch.zeros(0, dtype=torch.int64)]
        self._mixed: dict[int, str] = {}
        self._sums: list[tuple[Tensor, Tensor, str]] = []

    def fresh(self, number: int) -> Tensor:
        """New labels, of shape ``(number,)``."""
        start = self._count + 1
        self._count += number
        return torch.arange(start, start + number)

    def tie(self, first: Tensor, second: Tensor) -> Tensor:
        """Ties labels that meet element by element; returns one of each pair, of the broadcast shape."""
        shape = torch.broadcast_shapes(first.shape, second.shape)
        a, b = _without_repeats(first.expand(shape), second.expand(shape))
        differ = (a != b) & (a != 0) & (b != 0)
        if differ.any():
            self._ties.append(_pairs(a[differ], b[differ]))
        # The one that repeats itself more stands for both, so that what follows stays cheap.
        for labels in sorted((first.expand(shape), second.expand(shape)), key=_distinct):
            if _without_repeats(labels)[0].all():
                return labels
        return torch.where(a != 0, a, b).expand(shape)

    def merge(self, labels: Tensor, dims: Sequence[int], why: str | None = None) -> Tensor:
        """Ties all labels along some dimensions.

        Args:
            labels: labels.
            dims: dimensions along which they are tied.
            why: what mixes them, for the report, if that is worth a mention.

        Returns:
            One label for each remaining position; ``dims`` have size 1.
        """
        if not dims or labels.numel() == 0:
            return labels
        (thin,) = _without_repeats(labels)
        one = thin.amax(tuple(dims), keepdim=True)
        self.tie(thin, one)
        if why is not None:
            mixing = ((thin != one) & (thin != 0)).any(dim=tuple(dims), keepdim=True)
            self._mixed.update(dict.fromkeys(one[mixing].unique().tolist(), why))
        dims = {dim % labels.dim() for dim in dims}  # type: ignore[assignment]
        return one.expand([1 if dim in dims else size for dim, size in enumerate(labels.shape)])

    def sum(self, labels: Tensor, dims: Sequence[int], why: str) -> Tensor:
        """Labels of a reduction over different features, which ties them only if anything is made of the result.

        Attention averages the weights of its heads for its caller, who rarely looks at them.
        """
        thin = with_repeats(labels)
        shape = [1 if dim in dims else size for dim, size in enumerate(labels.shape)]
        sources = _without_repeats(thin)[0]
        small = [1 if dim in dims else size for dim, size in enumerate(sources.shape)]
        result = self.fresh(int(np.prod(small))).reshape(small)
        self._sums.append((result, sources, why))
        return result.expand(shape)

    def _tie_sums(self, used: Tensor) -> None:
        """Ties what went into sums that something was made of."""
        pending = self._sums
        while True:
            seen = torch.cat([used, *(ties.flatten() for ties in self._ties), torch.tensor([0, *self._frozen])])
            ready = [sums for sums in pending if torch.isin(sums[0], seen).any()]
            if not ready:
                return
            pending = [sums for sums in pending if not any(sums is one for one in ready)]
            for result, sources, why in ready:
                self.tie(sources, result.expand(sources.shape))
                self._mixed.update(dict.fromkeys(result.unique().tolist(), why))

    @staticmethod
    def vary(labels: Tensor, dim: int) -> bool:
        """Whether labels differ along a dimension."""
        if labels.shape[dim] == 1 or labels.stride(dim) == 0:
            return False
        return bool((labels != labels.narrow(dim, 0, 1)).any())

    def freeze(self, labels: Tensor, why: str) -> None:
        """Says that features cannot be taken out, and why."""
        (thin,) = _without_repeats(labels)
        for label in thin.unique().tolist():
            if label:
                self._frozen.setdefault(label, why)

    def mark_source(self, labels: Tensor) -> None:
        """Says that the network's inputs decide features otherwise than by a product with a weight."""
        self._sources.append(_without_repeats(labels)[0].unique())

    def freeze_sink(self, labels: Tensor, why: str) -> None:
        """Says that features cannot be taken out since something else than a product with a weight needs them."""
        self.freeze(labels, why)
        self._sinks.append(_without_repeats(labels)[0].unique())

    @property
    def sources(self) -> Tensor:
        """The labels of features that were marked as sources, and 0."""
        return torch.cat(self._sources)

    @property
    def sinks(self) -> Tensor:
        """The labels of features that something else than a product with a weight needs."""
        return torch.cat(self._sinks)

    def classes(self, read: Tensor | None = None) -> "Classes":
        """Which features are coupled, given all that was tied so far, and the labels that weights read."""
        # Here, since importing it takes a while and changes the warning filters.
        from scipy.sparse import coo_array  # noqa: PLC0415
        from scipy.sparse.csgraph import connected_components  # noqa: PLC0415

        self._tie_sums(torch.zeros(0, dtype=torch.int64) if read is None else read)
        size = self._count + 1
        # csgraph counts in int32; older SciPy takes int64 for an error that it does not raise, and returns nonsense.
        ties = torch.cat(self._ties, dim=1).numpy().astype(np.int32) if self._ties else np.zeros((2, 0), dtype=np.int32)
        graph = coo_array((np.ones(ties.shape[1], dtype=np.int8), (ties[0], ties[1])), shape=(size, size))
        _, number = connected_components(graph, directed=False)
        return Classes(torch.as_tensor(number, dtype=torch.int64), self._frozen, self._mixed)


class Classes:
    """The features of a network, sorted into coupled groups.

    Args:
        number: label to number of its class, of shape ``(labels,)``.
        frozen: label to the reason why it cannot be taken out.
        mixed: label to what mixes its features.
    """

    def __init__(self, number: Tensor, frozen: dict[int, str], mixed: dict[int, str]) -> None:
        self._number = number
        self.count = int(number.max()) + 1
        self.none = int(number[0])
        self._frozen: dict[int, str] = {}
        for label, why in frozen.items():
            self._frozen.setdefault(int(number[label]), why)
        self._mixed = {int(number[label]): why for label, why in mixed.items()}

    def of(self, labels: Tensor) -> Tensor:
        """The class of each label, or :attr:`none`."""
        return self._number[labels]

    def freeze(self, number: int, why: str) -> None:
        """Says that a class cannot be taken out, and why; the first reason stays."""
        self._frozen.setdefault(number, why)

    def frozen(self, number: int) -> str | None:
        """Why a class cannot be taken out; ``None`` if it can."""
        return "it carries no features" if number == self.none else self._frozen.get(number)

    def mixed(self, number: int) -> str | None:
        """What mixes the features of a class, so that they can only go all together."""
        return self._mixed.get(number)


def _pairs(first: Tensor, second: Tensor) -> Tensor:
    """Each pair once, ``(2, pairs)``."""
    code = (first << 32 | second).unique()  # one number a pair, since sorting rows is slow
    return torch.stack((code >> 32, code & 0xFFFFFFFF))


def _distinct(labels: Tensor) -> int:
    return _without_repeats(labels)[0].numel()


def with_repeats(labels: Tensor) -> Tensor:
    """The same labels, those that repeat themselves along a dimension as an expanded one; a copy may have undone it."""
    if labels.numel() > _LARGE and _distinct(labels) > _LARGE:
        shape = labels.shape
        for dim, size in enumerate(shape):
            first = labels.narrow(dim, 0, 1)
            if size > 1 and labels.stride(dim) != 0 and bool((labels == first).all()):
                labels = first
        labels = labels.expand(shape)
    return labels


def _without_repeats(*labels: Tensor) -> tuple[Tensor, ...]:
    """Labels without the repetitions that all of them have as expanded dimensions."""
    for dim, size in enumerate(labels[0].shape):
        if size > 1 and all(label.stride(dim) == 0 for label in labels):
            labels = tuple(label.narrow(dim, 0, 1) for label in labels)
    return labels
