"""Drawing and back-propagating 10^6 gates: HardConcrete against the shortest plain torch of the same formula."""

import argparse

import torch
from record import record

from l0bayes import HardConcrete
from l0bayes.inference.system.timing import interleaved

SEED = 0


def main() -> None:
    """Times both, interleaved, with arguments validated and not."""
    argparse.ArgumentParser(description=__doc__).parse_args()  # no options: only --help
    torch.manual_seed(SEED)
    log_alpha = torch.randn(10**6, requires_grad=True)

    def plain() -> None:
        log_alpha.grad = None
        u = torch.rand_like(log_alpha)
        s = torch.sigmoid((u.log() - (1 - u).log() + log_alpha) / (2 / 3))
        (s * 1.2 - 0.1).clamp(0, 1).sum().backward()

    def ours(*, validate: bool) -> None:
        log_alpha.grad = None
        HardConcrete(log_alpha, validate_args=validate).rsample().sum().backward()

    timing = interleaved(
        {
            "plain_torch": plain,
            "hard_concrete": lambda: ours(validate=False),
            "hard_concrete_validated": lambda: ours(validate=True),
        },
        rounds=31,
        seconds=0.2,
    )
    record("draws", SEED, {"seconds": timing.seconds, "ratio_to_plain_torch": timing.ratio})


if __name__ == "__main__":
    main()
