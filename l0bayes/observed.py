"""Which sites were observed, told while a model runs."""

from typing import Any

from l0bayes.compat import SampleMessenger


class Observed(SampleMessenger):
    """Notes the names of sites that get their values from data, such as by ``pyro.condition``.

    Attributes:
        names: of those sites.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def after_sample(self, msg: Any) -> None:
        """Notes a site, if it was."""
        if msg["is_observed"]:
            self.names.add(msg["name"])
