"""Predictions of a trained network: at the test-time gates, or over posterior draws of subnetworks."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from l0bayes.arguments import check_guide, checked
from l0bayes.checks import explained_types
from l0bayes.evaluating import evaluating
from l0bayes.find_sparse import find_sparse
from l0bayes.inputs import Inputs
from l0bayes.models.likelihood import Likelihood
from l0bayes.outputs import Which, chosen
from l0bayes.threads import one_thread

Gates = Literal["point", "sample"]


@checked
def predict(
    model: nn.Module,
    guide: Any,
    x: Tensor | tuple[Any, ...] | Mapping[str, Any],
    gates: Gates = "point",
    *,
    num_samples: int = 32,
    rule: str = "paper",
    batch_size: int = 4096,
    output: Which | None = None,
) -> Tensor:
    """The network's outputs, each set of gates run as the subnetwork it selects.

    Args:
        model: a sparse module, or a model around one.
        guide: its guide.
        x: inputs of shape ``(batch, …)``; for a network of several a tuple of positional ones, or a mapping of keyword
            inputs.
        gates: ``"point"`` runs the test-time gates once, with weights at their means; ``"sample"`` draws the gates, and
            weights that are normal, ``num_samples`` times.
        num_samples: posterior draws, at least 1; from torch's global random state.
        rule: how a test-time gate is chosen, see :meth:`~l0bayes.HardConcrete.point`.
        batch_size: inputs run at a time.
        output: which part of what the network returns is meant, where that is more than a tensor: the name of a field,
            the place in a tuple, or a function of the whole. ``None``: that of the likelihood.

    Returns:
        Outputs of shape ``(batch, …)`` for ``"point"``, ``(num_samples, batch, …)`` for ``"sample"``. Average
        probabilities, not logits, for a posterior predictive.

    Raises:
        ValueError: if ``gates``, ``num_samples``, ``batch_size`` or ``rule`` is out of range.
        DataError: if ``x`` is empty or not finite, or the network returns something else than one tensor and ``output``
            does not say which part of it.
        ThreadError: if another thread of this process trains; predictions of several threads wait for one another.
    """
    if gates not in get_args(Gates):
        raise ValueError(f"gates must be one of {', '.join(get_args(Gates))}; got {gates!r}")
    if num_samples < 1 or batch_size < 1:
        raise ValueError(f"num_samples and batch_size must be at least 1; got {num_samples} and {batch_size}")
    check_guide(guide, "point" if gates == "point" else "gates")
    if isinstance(model, Likelihood):
        inputs, _ = model.parts(x)
        output = model.output if output is None else output
    else:
        inputs = Inputs.of(x)
        inputs.check("x")
    sparse = find_sparse(model)

    def outputs(values: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Tensor:
        found = [
            chosen(sparse.run_with(values, weights, *part.args, **part.kwargs), output)
            for part in inputs.split(batch_size, "x")
        ]
        return found[0] if len(found) == 1 else torch.cat(found)

    with one_thread("predict"), evaluating(sparse), explained_types(sparse, inputs.tensors, "x"):
        if gates == "point":
            return outputs(guide.point(rule), {})
        distributions = guide.gates()
        return torch.stack(
            [
                outputs({name: gate.sample() for name, gate in distributions.items()}, sparse.draw_weights())
                for _ in range(num_samples)
            ]
        )
