"""expand keeps the class and every attribute; copies and pickles draw and score as the original does."""

import copy
import io

import pytest
import torch

from l0bayes import HardConcrete, L0Prior, SpikeAndSlabPrior


class NamedGate(HardConcrete):
    """A third party's gate with a constructor of its own."""

    def __init__(self, name, size):
        self.name = name
        super().__init__(torch.zeros(size), 0.5)


class NamedPrior(L0Prior):
    def __init__(self, name, size):
        self.name = name
        super().__init__(torch.ones(size))


def gate():
    return HardConcrete(torch.tensor([[0.5], [-1.0]]), torch.tensor([0.4]), -0.2, torch.tensor(1.2))


def paper_gate():
    return HardConcrete(torch.tensor([[0.5], [-1.0]]))


def l0_prior():
    return L0Prior(torch.tensor([[0.5], [2.0]]))


def spike_and_slab():
    return SpikeAndSlabPrior(torch.tensor([[0.2], [0.7]]), 3.0)


MAKERS = [gate, paper_gate, l0_prior, spike_and_slab]
each = pytest.mark.parametrize("make", MAKERS)
VALUE = torch.tensor([0.0, 0.3, 1.0])


@each
@pytest.mark.parametrize("shape", [(2, 1), (2, 3), (5, 2, 1), (5, 2, 3), (5, 4, 2, 3)], ids=str)
def test_expand_over_new_and_existing_dimensions(make, shape):
    d = make()
    wide = d.expand(shape)
    assert type(wide) is type(d)
    assert wide.batch_shape == shape
    assert wide.event_shape == ()
    assert d.batch_shape == (2, 1)
    assert wide.sample((6,)).shape == (6, *shape)
    for actual, expected in (
        (wide.mean, d.mean.expand(shape)),
        (wide.variance, d.variance.expand(shape)),
        (wide.log_prob(VALUE[:, None, None, None, None]), d.log_prob(VALUE[:, None, None, None, None])),
    ):
        torch.testing.assert_close(actual, expected.expand(actual.shape))
    for name in d.arg_constraints:
        assert getattr(wide, name).shape == shape


@each
def test_expand_again_and_expand_by(make):
    d = make()
    assert d.expand((2, 3)).expand((4, 2, 3)).batch_shape == (4, 2, 3)
    assert d.expand([4, 2, 3]).batch_shape == (4, 2, 3)
    wide = d.expand_by((4,))
    assert type(wide) is type(d)
    assert wide.batch_shape == (4, 2, 1)
    torch.testing.assert_close(wide.mean, d.mean.expand(4, 2, 1))


@each
@pytest.mark.parametrize("shape", [(3, 1), (2,), (2, 3, 4), ()], ids=str)
def test_expand_to_an_impossible_shape_is_refused(make, shape):
    with pytest.raises((RuntimeError, ValueError)):
        make().expand(shape)


@each
def test_expanded_draws_are_independent(make):
    z = make().expand((2, 1000)).sample()
    assert len(z[0].unique()) > 1


def test_expand_passes_gradients_to_the_original_parameter():
    log_alpha = torch.zeros(2, 1, requires_grad=True)
    HardConcrete(log_alpha).expand((5, 2, 3)).prob_nonzero.sum().backward()
    assert log_alpha.grad.shape == (2, 1)
    assert (log_alpha.grad > 0).all()


@pytest.mark.parametrize("make", [NamedGate, NamedPrior])
def test_expand_keeps_a_subclass_with_its_own_constructor(make):
    d = make("conv1", 3)
    for wide in (d.expand((2, 3)), d.expand((2, 3)).expand((4, 2, 3)), d.expand_by((2,))):
        assert type(wide) is make
        assert wide.name == "conv1"
        assert wide.log_prob(wide.sample()).shape == wide.batch_shape


@each
@pytest.mark.parametrize("validate", [True, False])
def test_expand_keeps_the_choice_of_validation(make, validate):
    d = make()
    fresh = type(d)(*(getattr(d, name) for name in d.arg_constraints), validate_args=validate)
    wide = fresh.expand((2, 3))
    if validate:
        with pytest.raises(ValueError, match="support"):
            wide.log_prob(torch.tensor(2.0))
    else:
        wide.log_prob(torch.tensor(2.0))


WRAPPERS = {
    "plain": lambda d: d,
    "expanded": lambda d: d.expand((4, 2, 3)),
    "event": lambda d: d.to_event(1),
    "masked": lambda d: d.mask(torch.tensor([True, False])),
    "masked event": lambda d: d.expand((4, 2, 2)).mask(torch.tensor([True, False])).to_event(2),
}
wrapped = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)


def saved_and_loaded(d):
    file = io.BytesIO()
    torch.save(d, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@each
@wrapped
@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, saved_and_loaded])
def test_a_copy_draws_and_scores_alike(make, wrap, duplicate):
    d = wrap(make())
    twin = duplicate(d)
    assert type(twin) is type(d)
    assert (twin.batch_shape, twin.event_shape) == (d.batch_shape, d.event_shape)
    torch.manual_seed(1)
    z = d.sample((5,))
    torch.manual_seed(1)
    assert torch.equal(twin.sample((5,)), z)
    assert torch.equal(twin.log_prob(z), d.log_prob(z))


def test_repr_names_the_class():
    assert "HardConcrete" in repr(gate())
    assert "L0Prior" in repr(l0_prior())
