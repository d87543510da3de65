"""``l0bayes evaluate``: a saved network on data."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch.nn.functional import cross_entropy

from l0bayes.inference.command_line.saved_run import SavedNetwork, SavedRun
from l0bayes.inference.data.batches import TensorBatches
from l0bayes.inference.storage.files import write_bytes
from l0bayes.posterior.cost import cost

_ROWS = 1000  # images run at a time


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of ``l0bayes evaluate``.

    Attributes:
        folder: of a finished run of l0bayes train.
        network: ``compacted`` or ``dense``.
        part: of the data: ``test``, ``validation`` or ``train``.
        data_dir: where the data are; where they were in the run, if not given.
        json: a file for the numbers.
    """

    folder: str
    network: SavedNetwork = "compacted"
    part: Literal["test", "validation", "train"] = "test"
    data_dir: str | None = None
    json: str | None = None


@torch.no_grad()
def evaluate_saved(options: EvaluateOptions) -> str:
    """Runs the network on the data.

    Args:
        options: which network, on what.

    Returns:
        What was found, a line each: the error, the negative log-likelihood in nats per image, the size.
    """
    run = SavedRun(options.folder, options.data_dir)
    net, split = run.network(options.network), getattr(run.job.data, options.part)
    wrong, nats = 0.0, 0.0
    for x, y in TensorBatches(split.x, split.y, _ROWS):
        outputs = net(x)
        wrong += float((outputs.argmax(-1) != y).sum())
        nats += float(cross_entropy(outputs, y, reduction="sum"))
    size = cost(net, split.x[:1])
    found = {
        "network": options.network,
        "part": options.part,
        "images": len(split),
        "error": wrong / len(split),
        "nll": nats / len(split),
        "parameters": size.parameters,
        "macs": size.macs,
    }
    if options.json is not None:
        write_bytes(Path(options.json), (json.dumps(found, indent=2) + "\n").encode())
    return "\n".join(
        [
            f"{options.network} network on {len(split):,} {options.part} images of {run.options.data}",
            f"error  {found['error']:.2%} ({wrong:.0f} wrong)",
            f"NLL    {found['nll']:.4f} nats an image",
            f"size   {size.parameters:,} parameters, {size.macs:,} MACs",
        ]
    )
