"""The expected number of living parameters, against every pattern of open and closed gates counted one by one."""

import random

import pytest
import torch
from cost_oracle import EXAMPLES, STREAM, X, every_pattern, living, mean, mlp, random_costs, random_probs, stream

from l0bayes import sparsify
from l0bayes.code_cost import expected_cost
from l0bayes.code_cost.expected_cost import ExpectedCost
from l0bayes.code_cost.joint_cost import JointCost
from l0bayes.errors import StructureError
from l0bayes.models import MLP
from l0bayes.structure import GateGroup, Slice, Structure
from l0bayes.subnetwork.compacted import compact_network

each_example = pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)


@pytest.fixture(autouse=True)
def _double(_same_start):
    torch.set_default_dtype(torch.float64)


@each_example
def test_it_is_the_mean_over_all_patterns(example):
    build, x, gates = example
    structure = sparsify(build(), x, gates=gates).structure
    probs, costs = random_probs(structure), random_costs(structure)
    expected, found = mean(structure, probs, costs), ExpectedCost(structure, costs).total(probs)
    assert found.item() == pytest.approx(expected.item(), abs=1e-10)
    exact, gradients = (torch.autograd.grad(cost, list(probs.values())) for cost in (expected, found))
    torch.testing.assert_close(gradients, exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in EXAMPLES if not name.startswith("weights")])
def test_the_parameters_counted_are_those_of_the_compacted_network(name):
    build, x, gates = EXAMPLES[name]
    net = build()
    structure = sparsify(net, x, gates=gates).structure
    patterns = every_pattern(structure)
    numbers = living(structure, patterns, dict.fromkeys(structure.shapes, 1.0))
    total = sum(p.numel() for p in net.parameters())
    runs = [row for row in range(len(numbers)) if all(pattern[row].any() for pattern in patterns.values())]
    for row in torch.randperm(len(runs))[:60].tolist():
        gates = {name: pattern[runs[row]] for name, pattern in patterns.items()}
        small = compact_network(net, structure.groups, gates)
        assert total - sum(p.numel() for p in small.parameters()) == numbers[-1] - numbers[runs[row]]


def two_gates_by_hand(first, second, places):
    filters = (second.repeat_interleave(4, 1) * places).sum(1)  # 4 places each, read by 2 units
    return 5 * first.sum(1) + (4 * first.sum(1) + 1) * second.sum(1) + 2 * filters


def residual_by_hand(channels, inner):
    k, d = channels.sum(1), inner.sum(1)
    return 9 * k + k + (k * d + 2 * d) + (d * k + k) + 8 * k


def attention_by_hand(features, heads):
    k, h = features.sum(1), heads.sum(1)
    return 4 * k + 3 * 2 * h * (k + 1) + (2 * h * k + k) + 3 * k


BY_HAND = {
    "units": lambda a, b: 4 * a.sum(1) + (a.sum(1) + 1) * b.sum(1) + 2 * b.sum(1),
    "stream": lambda a: 3 * a.sum(1) + (a.sum(1) + 1) * a.sum(1) + 2 * a.sum(1),
    "two gates over a column": two_gates_by_hand,
    "residual": residual_by_hand,
    "attention": attention_by_hand,
    "weights": lambda a, b: a.sum(1) + b.sum(1),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_the_parameters_counted_are_those_counted_by_hand(name):
    build, x, gates = EXAMPLES[name]
    structure = sparsify(build(), x, gates=gates).structure
    patterns = every_pattern(structure)
    numbers = living(structure, patterns, dict.fromkeys(structure.shapes, 1.0))
    assert torch.equal(numbers, BY_HAND[name](*patterns.values()))


@pytest.mark.parametrize("name", ["stream", "two gates over a column", "attention", "weights between units"])
def test_gradcheck(name):
    build, x, gates = EXAMPLES[name]
    structure = sparsify(build(), x, gates=gates).structure
    costs, names = random_costs(structure), [group.name for group in structure.groups]
    cost = ExpectedCost(structure, costs)
    log_alphas = tuple(torch.randn(group.size, requires_grad=True) for group in structure.groups)

    def total(*values):
        return cost.total({name: value.sigmoid() for name, value in zip(names, values, strict=True)})

    assert torch.autograd.gradcheck(total, log_alphas)
    assert torch.autograd.gradgradcheck(total, log_alphas)


@each_example
def test_with_later_groups_closed_it_is_that_of_those_before(example):
    build, x, gates = example
    structure = sparsify(build(), x, gates=gates).structure
    probs, costs = random_probs(structure), random_costs(structure)
    cost = ExpectedCost(structure, costs)
    so_far = {name: torch.zeros_like(prob) for name, prob in probs.items()}
    for name, prob in probs.items():
        so_far[name] = prob
        assert cost.total(so_far).item() == pytest.approx(mean(structure, so_far, costs).item(), abs=1e-10)


@each_example
def test_what_open_gates_cost_given_those_before_adds_up_to_all(example):
    """Opened group after group, each pays for itself and half of what it shares with others of its own group."""
    build, x, gates = example
    structure = sparsify(build(), x, gates=gates).structure
    cost = ExpectedCost(structure, random_costs(structure))
    joint = JointCost(cost, [group.size for group in structure.groups])
    paid = torch.zeros(())
    for position, group in enumerate(structure.groups):
        each = joint.of_each_open(position)
        assert each.shape == (group.size,)
        paid = paid + each.sum()
        joint.note_draw(position, torch.ones(group.size))
    everything = {group.name: torch.ones(group.size) for group in structure.groups}
    assert paid.item() == pytest.approx(cost.total(everything).item(), rel=1e-12)


def random_structure(draw):
    """Tensors of up to three dimensions, of which up to two have gates, of up to two groups each, with gaps."""
    sizes, shapes, tables = [draw.randint(1, 3) for _ in range(draw.randint(1, 4))], {}, {}
    slices = [[] for _ in sizes]
    for tensor in "abcd"[: draw.randint(1, 4)]:
        shape = shapes[tensor] = torch.Size([draw.randint(1, 4) for _ in range(draw.randint(1, 3))])
        for dim in draw.sample(range(len(shape)), min(len(shape), draw.randint(1, 2))):
            for group in draw.sample(range(len(sizes)), min(len(sizes), draw.randint(1, 2))):
                new = torch.tensor([draw.randint(-1, sizes[group] - 1) for _ in range(shape[dim])])
                table = tables.setdefault((group, shape[dim], draw.random() < 0.6), new)
                slices[group].append(Slice(tensor, dim, table, consumes=True))
    groups = [GateGroup(str(k), "layer", n, tuple(slices[k]), torch.zeros(n)) for k, n in enumerate(sizes)]
    return Structure(tuple(groups), {}, shapes)


def test_random_structures():
    refused = 0
    for seed in range(200):
        structure = random_structure(random.Random(seed))  # noqa: S311 (no secret)
        probs, costs = random_probs(structure), random_costs(structure)
        try:
            found = ExpectedCost(structure, costs).total(probs)
        except StructureError:
            refused += 1
        else:
            assert found.item() == pytest.approx(mean(structure, probs, costs).item(), abs=1e-10), seed
    assert refused < 80


def test_what_has_no_closed_form_is_refused():
    with pytest.raises(StructureError, match=r"'fc1\.unit' decides over both dimensions"):
        sparsify(stream("fc2", "fc1", "fc3")(), STREAM, gates={"fc1": "unit", "fc2": "input"})
    slices = tuple(Slice("w", dim, torch.arange(2), consumes=True) for dim in range(3))
    cube = Structure((GateGroup("g", "layer", 2, slices, torch.ones(2)),), {}, {"w": torch.Size([2, 2, 2])})
    with pytest.raises(StructureError, match="w has gates along 3 dimensions"):
        ExpectedCost(cube, {"w": 1.0})


def test_what_costs_nothing_is_not_counted():
    structure = sparsify(mlp(), X).structure
    assert ExpectedCost(structure, {}).total(random_probs(structure)) == 0
    of_the_last = ExpectedCost(structure, {"4.weight": 1.0, "4.bias": 5.0})
    assert of_the_last.total({"0.unit": torch.ones(3), "2.unit": torch.ones(3)}) == 3 * 2


def test_single_precision_is_enough_for_large_layers():
    structure = sparsify(MLP(784, 300, 100, 10), torch.zeros(1, 784), gates="input").structure
    cost = ExpectedCost(structure, dict.fromkeys(structure.shapes, 1.0))
    probs = {group.name: torch.rand(group.size) for group in structure.groups}
    rounded = cost.total({name: prob.float() for name, prob in probs.items()})
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(cost.total(probs).item(), rel=1e-6)


@each_example
def test_large_tables_are_left_apart_and_give_the_same(example, monkeypatch):
    build, x, gates = example
    structure = sparsify(build(), x, gates=gates).structure
    probs, costs = random_probs(structure), random_costs(structure)
    whole = ExpectedCost(structure, costs).total(probs)
    monkeypatch.setattr(expected_cost, "_LARGEST", 0)
    torch.testing.assert_close(ExpectedCost(structure, costs).total(probs), whole, rtol=1e-12, atol=0)
