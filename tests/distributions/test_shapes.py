"""Sample, batch and event shapes of the gate and of its priors."""

import pytest
import torch

from l0bayes import HardConcrete, L0Prior, SpikeAndSlabPrior

MAKERS = {
    "HardConcrete": lambda shape: HardConcrete(torch.zeros(shape)),
    "L0Prior": lambda shape: L0Prior(torch.ones(shape)),
    "SpikeAndSlabPrior": lambda shape: SpikeAndSlabPrior(torch.full(shape, 0.3)),
}
each = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
batches = pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 3), (0,)], ids=str)
F64 = torch.float64


@each
@batches
@pytest.mark.parametrize("sample", [(), (1,), (5,), (4, 5)], ids=str)
def test_draws_and_their_log_prob(make, batch, sample):
    d = make(batch)
    assert d.batch_shape == batch
    assert d.event_shape == ()
    draws = [d(sample), d.sample(sample)] + ([d.rsample(sample)] if d.has_rsample else [])
    for z in draws:
        assert z.shape == d.shape(torch.Size(sample)) == (*sample, *batch)
        assert d.log_prob(z).shape == z.shape


@each
@batches
def test_moments_have_the_batch_shape(make, batch):
    d = make(batch)
    assert d.mean.shape == d.variance.shape == d.stddev.shape == batch


@batches
def test_quantities_of_a_gate_have_the_batch_shape(batch):
    d = MAKERS["HardConcrete"](batch)
    for value in (d.prob_zero, d.prob_one, d.prob_nonzero, d.logit_nonzero, d.entropy()):
        assert value.shape == batch
    for rule in ("paper", "median", "mean"):
        assert d.point(rule).shape == batch
    for value in (d.cdf(torch.full(batch, 0.5)), d.icdf(torch.full(batch, 0.5))):
        assert value.shape == batch


@pytest.mark.parametrize("parameters", [(torch.zeros(0), torch.ones(0)), (torch.zeros(2, 0), torch.ones(2, 1))])
def test_no_gates_are_no_error(parameters):
    d = HardConcrete(*parameters)
    assert d.mean.shape == d.variance.shape == d.entropy().shape == d.batch_shape


@each
def test_value_broadcasts_against_the_batch(make):
    d = make((2, 3))
    for shape in ((), (1,), (3,), (2, 1), (4, 1, 1), (4, 2, 3)):
        expected = torch.broadcast_shapes(shape, (2, 3))
        assert d.log_prob(torch.full(shape, 0.5)).shape == expected


@each
@pytest.mark.parametrize("shape", [(2,), (4, 3), (3, 2)], ids=str)
def test_value_that_does_not_broadcast_is_refused(make, shape):
    with pytest.raises(ValueError, match="broadcast"):
        make((2, 3)).log_prob(torch.full(shape, 0.5))


@each
def test_one_row_of_a_batch_is_the_gate_alone(make):
    value = torch.tensor([0.0, 0.4, 1.0])
    rows = make((3,)).log_prob(value)
    alone = torch.stack([make(()).log_prob(v) for v in value])
    torch.testing.assert_close(rows, alone, atol=0, rtol=0)


PARAMETERS = [
    ((), (torch.tensor(0.0), 0.5, -0.1, 1.1)),
    ((3,), (torch.zeros(3), 0.5, -0.1, 1.1)),
    ((3,), (torch.zeros(3), torch.tensor(0.5), -0.1, torch.tensor(1.1))),
    ((2,), (0.0, torch.ones(2), -0.1, 1.1)),
    ((2, 3), (torch.zeros(3), torch.ones(2, 1), -0.1, 1.1)),
    ((2, 3), (torch.zeros(1), 0.5, torch.full((2, 1), -0.2), torch.full((3,), 1.3))),
    ((4, 2, 3), (torch.zeros(2, 3), 1.0, -0.1, torch.full((4, 1, 1), 1.3))),
]


@pytest.mark.parametrize(("batch", "parameters"), PARAMETERS)
def test_four_parameters_broadcast(batch, parameters):
    d = HardConcrete(*parameters)
    full = HardConcrete(*(torch.as_tensor(p).expand(batch).clone() for p in parameters))
    z = d.rsample((5,))
    assert d.batch_shape == full.batch_shape == batch
    assert z.shape == (5, *batch)
    for both in (
        (d.log_prob(z), full.log_prob(z)),
        (d.mean, full.mean),
        (d.variance, full.variance),
        (d.entropy(), full.entropy()),
        (d.prob_nonzero, full.prob_nonzero),
        (d.cdf(z), full.cdf(z)),
        (d.point("median"), full.point("median")),
    ):
        torch.testing.assert_close(*both, atol=1e-5, rtol=1e-5)


def test_parameters_that_do_not_broadcast_are_refused():
    with pytest.raises(RuntimeError):
        HardConcrete(torch.zeros(3), torch.ones(2))
    with pytest.raises(RuntimeError):
        SpikeAndSlabPrior(torch.full((3,), 0.5), torch.ones(2))


@each
def test_to_event_sums_the_log_prob(make):
    d = make((2, 3))
    z = d.sample((4,))
    for n, shape in ((1, (4, 2)), (2, (4,))):
        event = d.to_event(n)
        assert event.batch_shape == (2, 3)[: 2 - n]
        assert event.event_shape == (2, 3)[2 - n :]
        assert event.sample((4,)).shape == (4, 2, 3)
        assert event.log_prob(z).shape == shape
        torch.testing.assert_close(event.log_prob(z), d.log_prob(z).flatten(3 - n).sum(-1))


@each
def test_mask_hides_log_prob_and_keeps_draws(make):
    d, mask = make((2, 3)), torch.tensor([True, False, True])
    masked, z = d.mask(mask), torch.full((2, 3), 0.4)
    torch.testing.assert_close(masked.log_prob(z), d.log_prob(z) * mask)
    assert masked.sample((5,)).shape == (5, 2, 3)
    assert (d.mask(mask=False).log_prob(z) == 0).all()
    torch.testing.assert_close(masked.to_event(1).log_prob(z), (d.log_prob(z) * mask).sum(-1))


def test_infer_shapes():
    shapes = HardConcrete.infer_shapes(log_alpha=(3,), beta=(2, 1), gamma=(), zeta=(1,))
    assert shapes == (torch.Size((2, 3)), torch.Size(()))
    assert L0Prior.infer_shapes(code_cost=(4,)) == (torch.Size((4,)), torch.Size(()))
    assert SpikeAndSlabPrior.infer_shapes(inclusion=(4, 1), code_cost=(3,))[0] == (4, 3)


@each
def test_support_is_the_continuous_unit_interval(make):
    d = make(())
    assert not d.support.is_discrete
    assert d.support.event_dim == d.event_dim == 0
    assert d.support.check(torch.tensor([0.0, 0.5, 1.0, -0.1, 1.1])).tolist() == [True] * 3 + [False] * 2
    assert d.support.check(d.sample((100,))).all()
    assert not d.has_enumerate_support
