"""Learning-rate schedules, as factors of the rate that was given."""

import math

from l0bayes.inference.training.fit_options import FitOptions

_COOLING_FROM = 3 / 8  # of the epochs, where the late cosine begins
_LEAST = 1e-3  # of a cosine's rate, at its end
_DROPS = (0.3, 0.6, 0.8)  # shares of a run after which rates fall to a fifth (Zagoruyko and Komodakis 2016)


def lr_factor(options: FitOptions, epochs: float) -> float:
    """What the schedule makes of ``lr`` once so many epochs are done, over fine-tuning too.

    Args:
        options: with ``schedule`` decided.
        epochs: that are done, the one in progress in part.
    """
    total = options.epochs + options.fine_tune
    done = epochs / total
    if options.schedule == "late_cosine":
        late = _COOLING_FROM * options.epochs / total
        done = max(0.0, (done - late) / (1 - late))
    if options.schedule in ("cosine", "late_cosine"):
        return max(0.5 * (1 + math.cos(math.pi * done)), _LEAST)
    if options.schedule == "steps":
        return float(0.2 ** sum(done >= share for share in _DROPS))
    return 1.0
