"""Error, negative log-likelihood and calibration of predictions on a test part."""

from functools import partial

import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_calibration_error

from l0bayes.evaluating import evaluating
from l0bayes.inference import HardConcreteGuide, predict
from l0bayes.inference.data.datasets import Split
from l0bayes.models import Classifier

RULES = ("paper", "median", "mean")
SEED = 0


def scores(probs: Tensor, y: Tensor) -> dict[str, float]:
    """Of probabilities of shape ``(rows, classes)``: error, mean negative log-likelihood in nats, ECE of 15 bins."""
    return {
        "error": float((probs.argmax(-1) != y).double().mean()),
        "nll": float(-probs.gather(1, y[:, None]).clamp(min=1e-12).log().mean()),
        "ece": float(multiclass_calibration_error(probs, y, num_classes=probs.shape[1], n_bins=15)),
    }


def dense_scores(net: nn.Module, test: Split, batch_size: int = 10_000) -> dict[str, float]:
    """Of a network without gates."""
    with evaluating(net), torch.no_grad():
        return scores(torch.cat([net(x) for x in test.x.split(batch_size)]).softmax(-1), test.y)


def gated_scores(
    model: Classifier, guide: HardConcreteGuide, test: Split, *, draws: int = 64, batch_size: int = 10_000
) -> dict[str, dict[str, float]]:
    """Of each rule for test-time gates, and of the mean of the probabilities over draws of the gates."""
    run = partial(predict, model, guide, test.x, batch_size=batch_size)
    found = {rule: scores(run(rule=rule).softmax(-1), test.y) for rule in RULES}
    torch.manual_seed(SEED)
    mean = run(gates="sample", num_samples=draws).softmax(-1).mean(0)
    return found | {f"mean_of_{draws}_draws": scores(mean, test.y)}
