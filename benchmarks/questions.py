"""What the paper leaves open, on the digits: do seeds agree, do gates come back, which test-time rule, how many draws.

For an MLP and for a convolutional network with batch normalisation, asked for 10 % of their parameters.
"""

import argparse
import copy
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from record import record
from torch import Tensor, nn

from l0bayes import compact, sparsify
from l0bayes.evaluating import evaluating
from l0bayes.inference import ClosedFormKL_ELBO, HardConcreteGuide, Target, TensorBatches, fit, predict
from l0bayes.inference.data.datasets import Split, load_data
from l0bayes.models import MLP, Classifier, WideResNet
from l0bayes.posterior.cost import open_l0

SEEDS = (0, 1, 2)
EPOCHS = 40
TARGET = Target(0.1)
CODE_COST = 0.03  # nats a parameter
DRAWS = (1, 10, 100)
RULES = ("paper", "median", "mean")
ESTIMATORS: dict[str, dict[str, Any]] = {
    "1 draw": {},
    "2 draws": {"num_particles": 2},
    "an antithetic pair": {"num_particles": 2, "antithetic": True},
    "4 draws": {"num_particles": 4},
}


@dataclass(frozen=True)
class Network:
    """A network and the shape of its data."""

    build: Callable[[], nn.Module]
    gates: str
    shape: tuple[int, ...]

    def inputs(self, split: Split) -> Tensor:
        """Digits, in that shape."""
        x = split.x.reshape(len(split.x), -1)
        return x if len(self.shape) == 1 else x.reshape(-1, 1, *self.shape[1:]).expand(-1, *self.shape).contiguous()


NETWORKS = {
    "MLP 64-300-100-10": Network(lambda: MLP(64, 300, 100, 10), "input", (64,)),
    "WRN-10-1": Network(lambda: WideResNet(10, 1), "unit", (3, 8, 8)),
}


class Watched:
    """Batches that note, at each epoch's start, which gates are open."""

    def __init__(self, batches: TensorBatches, guide: Any) -> None:
        self.batches, self.guide = batches, guide
        self.seen: list[Tensor] = []

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        self.seen.append(torch.cat([gates != 0 for gates in self.guide.point().values()]))
        return iter(self.batches)


@dataclass(frozen=True)
class Trained:
    """A run, and what its gates did."""

    model: Classifier
    guide: HardConcreteGuide
    seen: list[Tensor]


def run(network: Network, data: Any, weights: int, order: int, code_cost: float = 0.0, **options: Any) -> Trained:
    """Trains from one seed for the weights and one for the order of the data; to the target without a code cost."""
    x = network.inputs(data.train)
    torch.manual_seed(weights)
    model = Classifier(sparsify(network.build(), x[:2], gates=network.gates, code_cost=code_cost), len(x))
    guide = HardConcreteGuide(model)
    torch.manual_seed(100 + order)
    batches = Watched(TensorBatches(x, data.train.y, 64, shuffle=True), guide)
    fit(model, guide, batches, epochs=EPOCHS, lr=3e-3, target=() if code_cost else TARGET, progress=False, **options)
    return Trained(model, guide, batches.seen)


def agreement(runs: list[Trained]) -> dict[str, float]:
    """Of pairs of runs: the share of gates that both keep among those that one keeps, beside chance; and of widths."""
    opened = [{name: gates != 0 for name, gates in one.guide.point().items()} for one in runs]
    overlap, chance, widths = [], [], []
    for one, other in itertools.combinations(opened, 2):
        both = sum(int((one[name] & other[name]).sum()) for name in one)
        either = sum(int((one[name] | other[name]).sum()) for name in one)
        overlap.append(both / either)
        expected = sum(float(one[name].sum()) * float(other[name].sum()) / len(one[name]) for name in one)
        chance.append(expected / (sum(int(one[n].sum() + other[n].sum()) for n in one) - expected))
        widths += [
            min(int(one[n].sum()), int(other[n].sum())) / max(int(one[n].sum()), int(other[n].sum())) for n in one
        ]
    return {
        "overlap": statistics.mean(overlap),
        "overlap_by_chance": statistics.mean(chance),
        "ratio_of_widths": statistics.mean(widths),
    }


def returns(runs: list[Trained]) -> dict[str, float]:
    """Of gates that were closed at some epoch's start: the share that was open at a later one, and at the end."""
    closed = back = kept = 0
    for one in runs:
        seen = torch.stack([*one.seen, torch.cat([gates != 0 for gates in one.guide.point().values()])])
        ever = ~seen.all(0)
        was_closed = (~seen).cumsum(0) > 0
        closed += int(ever.sum())
        back += int((seen & was_closed).any(0).sum())
        kept += int((seen[-1] & ever).sum())
    return {"closed_once": closed, "came_back": back / closed, "open_at_the_end": kept / closed}


def error(outputs: Tensor, y: Tensor) -> float:
    """Share of wrong classes."""
    return float((outputs.argmax(-1) != y).double().mean())


def rules(network: Network, data: Any, one: Trained) -> dict[str, float]:
    """Test errors by test-time rule, with statistics as they are and estimated anew, and of averaged draws."""
    x, y = network.inputs(data.test), data.test.y
    found = {}
    for rule in RULES:
        net = compact(one.model, one.guide, rule)
        with evaluating(net), torch.no_grad():
            found[rule] = error(net(x), y)
        if any(isinstance(module, nn.BatchNorm2d) for module in net.modules()):
            again = reestimated(net, network.inputs(data.train))
            with torch.no_grad():
                found[f"{rule}, statistics estimated anew"] = error(again(x), y)
    draws = predict(one.model, one.guide, x, "sample", num_samples=max(DRAWS)).softmax(-1)
    return found | {f"mean of {number} draws": error(draws[:number].mean(0), y) for number in DRAWS}


def reestimated(net: nn.Module, x: Tensor) -> nn.Module:
    """A copy with statistics of batch normalisation from all of the data."""
    net = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # cumulative
    net.train()
    with torch.no_grad():
        for part in x.split(128):
            net(part)
    return net.eval()


def elbo(network: Network, data: Any, one: Trained) -> float:
    """The ELBO of the training data in nats, gates drawn from the guide, statistics as they were left."""
    with evaluating(one.model), torch.no_grad():
        loss = ClosedFormKL_ELBO(num_particles=max(DRAWS)).loss(
            one.model, one.guide, network.inputs(data.train), data.train.y
        )
    return -float(loss)


def under_a_code_cost(network: Network, data: Any) -> dict[str, Any]:
    """ELBO, test error and size by both ways of moving gates, under the same code cost for as many epochs."""
    found = {}
    for way in ("evidence", "svi"):
        runs = [run(network, data, seed, seed, CODE_COST, selection=way) for seed in SEEDS]
        found[way] = {
            "elbo": statistics.mean(elbo(network, data, one) for one in runs),
            "test_error": statistics.mean(rules(network, data, one)["paper"] for one in runs),
            "parameters_open": statistics.mean(open_l0(one.model, one.guide) for one in runs),
        }
    return found


def by_estimator(network: Network, data: Any) -> dict[str, dict[str, float]]:
    """Test error of drawn gates under the code cost, and CPU time over that of one draw, by draws a step."""
    found = {}
    for name, options in ESTIMATORS.items():
        start = time.process_time()
        runs = [run(network, data, seed, seed, CODE_COST, selection="svi", **options) for seed in SEEDS]
        seconds = time.process_time() - start
        errors = [rules(network, data, one)["paper"] for one in runs]
        opened = statistics.mean(open_l0(one.model, one.guide) for one in runs)
        found[name] = {"test_error": statistics.mean(errors), "parameters_open": opened, "cpu_seconds": seconds}
    one = found["1 draw"]["cpu_seconds"]
    return {name: row | {"time": row["cpu_seconds"] / one} for name, row in found.items()}


def measure(network: Network, data: Any) -> dict[str, Any]:
    """All answers for one network."""
    same = [run(network, data, 0, seed) for seed in SEEDS]
    other = [run(network, data, seed, seed) for seed in SEEDS]
    drawn = [run(network, data, seed, seed, selection="svi") for seed in SEEDS]
    by_rule: dict[str, dict[str, float]] = {}
    for name, runs in (("evidence", other), ("svi", drawn)):
        each = [rules(network, data, one) for one in runs]
        by_rule[name] = {rule: statistics.mean(row[rule] for row in each) for rule in each[0]}
    return {
        "agreement": {
            "evidence, weights alike, data in another order": agreement(same),
            "evidence, all seeds": agreement(other),
            "svi, all seeds": agreement(drawn),
        },
        "returns": returns(other),
        "test_error": by_rule,
        "code_cost": under_a_code_cost(network, data),
        "estimators": by_estimator(network, data),
    }


def tables(found: dict[str, dict[str, Any]]) -> str:
    """The answers as Markdown."""
    lines = ["| seeds | gates kept by both, of those kept by one | by chance | ratio of widths |", "|---" * 4 + "|"]
    for network, answers in found.items():
        lines += [
            f"| {network}: {name} | {row['overlap']:.0%} | {row['overlap_by_chance']:.0%} "
            f"| {row['ratio_of_widths']:.2f} |"
            for name, row in answers["agreement"].items()
        ]
    lines += ["", "| gates closed at some time | came back | open at the end |", "|---" * 3 + "|"]
    lines += [
        f"| {network}: {it['returns']['closed_once']} | {it['returns']['came_back']:.1%} "
        f"| {it['returns']['open_at_the_end']:.1%} |"
        for network, it in found.items()
    ]
    lines += ["", "| code cost of 0.03 | ELBO, nats | test error | gated parameters open |", "|---" * 4 + "|"]
    lines += [
        f"| {network}: {way} | {row['elbo']:.0f} | {row['test_error']:.2%} | {row['parameters_open']:.0f} |"
        for network, it in found.items()
        for way, row in it["code_cost"].items()
    ]
    lines += [
        "",
        "| drawn gates, under that code cost | test error | gated parameters open | CPU time |",
        "|---" * 4 + "|",
    ]
    lines += [
        f"| {network}: {name} | {row['test_error']:.2%} | {row['parameters_open']:.0f} | {row['time']:.2f} × |"
        for network, it in found.items()
        for name, row in it["estimators"].items()
    ]
    lines += ["", "| test error, mean of seeds | evidence | svi |", "|---" * 3 + "|"]
    for network, it in found.items():
        by = it["test_error"]
        lines += [f"| {network}: {rule} | {by['evidence'][rule]:.2%} | {by['svi'][rule]:.2%} |" for rule in by["svi"]]
    return "\n".join(lines)


def main() -> None:
    """Answers them."""
    argparse.ArgumentParser(description=__doc__).parse_args()  # no options: only --help
    data = load_data("digits", "data", download=False)
    found = {name: measure(network, data) for name, network in NETWORKS.items()}
    record("questions", SEEDS[0], found, tables(found))


if __name__ == "__main__":
    main()
