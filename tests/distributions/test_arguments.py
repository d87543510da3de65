"""Arguments out of range are refused, in words that name the argument and the value."""

import pytest
import torch

from l0bayes import HardConcrete, L0Prior, SpikeAndSlabPrior

NAN, INF = float("nan"), float("inf")


def hard_concrete(**changed):
    return HardConcrete(**{"log_alpha": 0.0, **changed})


def spike_and_slab(**changed):
    return SpikeAndSlabPrior(**{"inclusion": 0.5, **changed})


BAD = [
    *((hard_concrete, "log_alpha", value) for value in (NAN, INF, -INF)),
    *((hard_concrete, "beta", value) for value in (0.0, -1.0, NAN, INF)),
    *((hard_concrete, "gamma", value) for value in (0.0, 0.1, NAN, -INF)),
    *((hard_concrete, "zeta", value) for value in (1.0, 0.9, NAN, INF)),
    *((L0Prior, "code_cost", value) for value in (-1.0, NAN, INF)),
    *((spike_and_slab, "inclusion", value) for value in (0.0, 1.0, -0.1, 1.5, NAN)),
    *((spike_and_slab, "code_cost", value) for value in (-0.5, NAN, INF)),
]
table = pytest.mark.parametrize(("make", "name", "value"), BAD)


@table
def test_bad_number_is_named_with_its_value(make, name, value):
    with pytest.raises(ValueError, match=name) as error:
        make(**{name: value})
    assert f"got {value:g}" in str(error.value)


@table
def test_one_bad_entry_of_a_tensor_is_named_with_its_value(make, name, value):
    fine = {"gamma": -0.1, "zeta": 1.1}.get(name, 0.5)
    with pytest.raises(ValueError, match=name) as error:
        make(**{name: torch.tensor([[fine, fine], [fine, value]])})
    assert f"got {value:g}" in str(error.value)


@table
def test_validation_can_be_switched_off(make, name, value):
    make(**{name: value}, validate_args=False)


def test_finite_locations_whose_sum_overflows_are_accepted():
    HardConcrete(torch.full((3,), 6e4, dtype=torch.float16))
    HardConcrete(torch.full((3,), 3e38))


@pytest.mark.parametrize("make", [HardConcrete, L0Prior, lambda x: SpikeAndSlabPrior(0.5, x)])
def test_integers_become_the_default_dtype(make):
    for value in (2, torch.tensor([1, 2])):
        assert make(value).mean.dtype == torch.float32
    torch.set_default_dtype(torch.float64)
    assert make(2).mean.dtype == torch.float64


def test_a_leaf_parameter_is_kept_and_receives_the_gradient():
    log_alpha = torch.nn.Parameter(torch.zeros(3))
    HardConcrete(log_alpha).prob_nonzero.sum().backward()
    assert (log_alpha.grad > 0).all()


def test_parameters_are_reported_with_the_batch_shape():
    d = HardConcrete(torch.zeros(3, dtype=torch.float64), 0.5, torch.tensor([[-0.2], [-0.3]]), 1.5)
    for name, first in (("log_alpha", 0.0), ("beta", 0.5), ("gamma", -0.2), ("zeta", 1.5)):
        tensor = getattr(d, name)
        assert tensor.shape == (2, 3)
        assert tensor.dtype == torch.float64
        assert tensor[0, 0].item() == pytest.approx(first)


@pytest.mark.parametrize(
    "d", [HardConcrete(torch.zeros(2)), L0Prior(torch.ones(2)), SpikeAndSlabPrior(torch.full((2,), 0.5))]
)
@pytest.mark.parametrize("value", [-0.1, 1.1, NAN, INF])
def test_value_outside_the_support_is_refused(d, value):
    with pytest.raises(ValueError, match="support"):
        d.log_prob(torch.tensor([0.5, value]))
