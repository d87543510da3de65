"""How networks of the paper are trained: options of ``l0bayes train`` that several benchmarks share."""

from typing import Any

# SGD with Nesterov momentum, the rate cut to a fifth at 30, 60 and 80 % of the epochs; images shifted and mirrored.
WIDE_RESNET: dict[str, Any] = {
    "network": "wrn",
    "optimizer": "sgd",
    "lr": 0.1,
    "schedule": "steps",
    "weight_decay": 5e-4,
    "shift": 4,
    "flip": True,
    "channels_last": True,
}
