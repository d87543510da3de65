"""Special functions of SciPy, imported when they are called: it changes the warning filters of who imports it."""

from typing import Any

import numpy as np

Arr = np.ndarray


def expit(x: Arr) -> Arr:
    """σ(x) = 1 / (1 + exp(−x))."""
    return _scipy("expit", x)


def logit(p: Any) -> Arr:
    """log(p / (1 − p))."""
    return _scipy("logit", p)


def gammaln(x: Arr) -> Arr:
    """Log Γ(x), of positive numbers."""
    return _scipy("gammaln", x)


def betaln(a: Any, b: Any) -> Arr:
    """Log B(a, b)."""
    return _scipy("betaln", a, b)


def _scipy(name: str, *args: Any) -> Arr:
    from scipy import special  # noqa: PLC0415

    return np.asarray(getattr(special, name)(*args))
