"""Input validation: data, and options that several networks have."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from l0bayes.errors import DataError, L0BayesError


def check_inputs(x: Any, name: str = "x") -> None:
    """Raises :class:`~l0bayes.errors.DataError` unless ``x`` is a batch of finite numbers; ``name`` is the argument."""
    if not isinstance(x, Tensor) or x.dim() == 0 or len(x) == 0:
        shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise DataError(f"{name} must be a tensor with at least one row; got {shape}")
    # One reduction tells in the common case; the sum of finite numbers may overflow, so look closer then.
    if x.is_floating_point() and not torch.isfinite(x.detach().sum()):
        wrong = ~torch.isfinite(x)
        if wrong.any():
            where = tuple(wrong.nonzero()[0].tolist())
            raise DataError(
                f"{name} must be finite; {int(wrong.sum())} values are NaN or infinite, the first, {x[where].item()}, "
                f"at {where}. Remove those rows or impute them"
            )


@contextmanager
def explained_types(net: nn.Module, inputs: Iterable[Any], name: str) -> Iterator[None]:
    """Within it, an error of torch's over numbers of another type than the network's is told as one of the data.

    Args:
        net: the network that runs.
        inputs: what it is given.
        name: the argument that holds them.
    """
    try:
        yield
    except RuntimeError as error:
        own = next((parameter.dtype for parameter in net.parameters() if parameter.is_floating_point()), None)
        dtypes = [x.dtype for x in inputs if isinstance(x, Tensor)]
        found = next((dtype for dtype in dtypes if dtype.is_floating_point), None)
        if found is None and not any(isinstance(module, nn.Embedding) for module in net.modules()):
            found = next(iter(dtypes), None)
        if own is None or found is None or own == found or isinstance(error, L0BayesError):
            raise
        raise DataError(
            f"{name}: inputs are {found}, and the network's parameters {own}: {str(error).splitlines()[0]}. Convert "
            f"them, as by x.to({own})"
        ) from error


def is_count(number: Any, least: int = 1) -> bool:
    """Whether something is an integer, and no truth value, of at least so much."""
    return isinstance(number, int) and not isinstance(number, bool) and number >= least


def check_dropout(dropout: float) -> None:
    """Raises ``ValueError`` unless ``dropout`` is a probability in [0, 1)."""
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be a probability in [0, 1), 0 for none; got {dropout!r}")
