"""A figure of the run that updates while it goes on, for notebooks."""

from typing import Any

import pandas as pd

from l0bayes.arguments import checked
from l0bayes.inference.callbacks.callback import Callback, Run


class LiveFigure(Callback):
    """Draws the course of the run anew after every few epochs, in the place where it was.

    Args:
        every: epochs between two drawings, at least 1.

    Raises:
        ValueError: if ``every`` is below 1, or there is no IPython to show figures.
    """

    @checked
    def __init__(self, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1; got {every}")
        try:
            from IPython.display import display  # noqa: PLC0415 (not required)
        except ImportError as error:
            raise ValueError("LiveFigure shows figures in notebooks, and IPython is not installed") from error
        self._display: Any = display
        self._every = every
        self._rows: list[dict[str, Any]] = []
        self._shown: Any = None

    def on_epoch(self, run: Run) -> None:
        """Notes what was measured, and draws it where that is due."""
        self._rows.append(dict(run.measured))
        if len(self._rows) % self._every == 0:
            self._draw()

    def on_end(self, run: Run) -> None:  # noqa: ARG002
        """Draws the last epochs too."""
        if len(self._rows) % self._every:
            self._draw()

    def _draw(self) -> None:
        from l0bayes.posterior.pictures import training_figure  # noqa: PLC0415 (matplotlib is heavy)

        figure = training_figure(pd.DataFrame(self._rows))
        if self._shown is None:
            self._shown = self._display(figure, display_id=True)
        else:
            self._shown.update(figure)
