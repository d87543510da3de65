"""Only the subnetwork is computed: floating-point operations, counted exactly."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from l0bayes import sparsify
from l0bayes.masked import masked_forward
from l0bayes.models import MLP

BATCH = 8
SIZES = (20, 30, 10, 5)


def first_open(sparse, *keeps):
    """Gates of which the first so many are open, group by group."""
    return {g.name: (torch.arange(g.size) < keep).float() for g, keep in zip(sparse.groups, keeps, strict=True)}


def flops(function, *, backward=False):
    with FlopCounterMode(display=False) as counter:
        output = function()
        if backward:
            output.sum().backward()
    return counter.get_total_flops()


@pytest.fixture(name="sparse")
def gated_inputs():
    return sparsify(MLP(*SIZES), torch.zeros(2, SIZES[0]), gates="input")


KEEPS = [(20, 30, 10), (10, 15, 5), (7, 30, 1), (20, 3, 10), (1, 1, 1)]


@pytest.mark.parametrize("keeps", KEEPS)
def test_a_forward_pass_costs_the_products_of_open_features(sparse, keeps):
    pixels, first, second = keeps
    x = torch.randn(BATCH, SIZES[0])
    gates = first_open(sparse, *keeps)
    expected = 2 * BATCH * (pixels * first + first * second + second * SIZES[3])
    assert flops(lambda: sparse.run(gates, x)) == expected


@pytest.mark.parametrize("keeps", KEEPS)
def test_a_training_step_costs_three_products_a_layer_but_for_the_gradient_of_the_data(sparse, keeps):
    pixels, first, second = keeps
    x = torch.randn(BATCH, SIZES[0])
    gates = first_open(sparse, *keeps)
    expected = 2 * BATCH * (2 * pixels * first + 3 * first * second + 3 * second * SIZES[3])
    assert flops(lambda: sparse.run(gates, x), backward=True) == expected


def test_nothing_is_computed_where_everything_is_closed(sparse):
    gates = first_open(sparse, 0, 0, 0)
    assert flops(lambda: sparse.run(gates, torch.randn(BATCH, SIZES[0])), backward=True) == 0


def test_masking_alone_saves_nothing(sparse):
    # The reference itself: it shows that the counter sees what the subnetwork leaves out.
    gates = first_open(sparse, 10, 15, 5)
    x = torch.randn(BATCH, SIZES[0])
    dense = flops(lambda: sparse.net(x))
    assert dense == 2 * BATCH * (20 * 30 + 30 * 10 + 10 * 5)
    assert flops(lambda: masked_forward(sparse.net, sparse.groups, gates, x)) == dense
    assert flops(lambda: sparse.run(gates, x)) < dense / 3
