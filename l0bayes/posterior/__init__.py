"""What is known after training: tables, graphs, ArviZ, costs. Pictures are in :mod:`l0bayes.posterior.pictures`."""

from l0bayes.posterior.arviz_export import to_arviz
from l0bayes.posterior.cost import Cost, cost, expected_l0, expected_macs
from l0bayes.posterior.gate_graph import gate_graph
from l0bayes.posterior.gate_table import gate_table

__all__ = ["Cost", "cost", "expected_l0", "expected_macs", "gate_graph", "gate_table", "to_arviz"]
