"""KLs through to_event, expand and mask: the shapes Pyro's ELBOs count on."""

import pytest
import torch
from torch.distributions import kl_divergence

from l0bayes import HardConcrete, L0Prior, SpikeAndSlabPrior

F64 = torch.float64
LOG_ALPHA = torch.linspace(-2, 2, 6, dtype=F64).reshape(2, 3)
PRIORS = {
    "L0Prior": L0Prior(torch.tensor([0.5, 1.0, 2.0], dtype=F64)),
    "SpikeAndSlabPrior": SpikeAndSlabPrior(torch.tensor([0.2, 0.5, 0.7], dtype=F64), 0.3),
    "HardConcrete": HardConcrete(torch.tensor([0.0, -1.0, 1.0], dtype=F64), 1.5),
}
each = pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
MASK = torch.tensor([[True, False, True], [False, False, True]])


def close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=1e-12)


@pytest.fixture
def gate():
    return HardConcrete(LOG_ALPHA)


@each
def test_batch_shapes_broadcast(gate, prior):
    kl = kl_divergence(gate, prior)
    assert kl.shape == (2, 3)
    rows = [kl_divergence(HardConcrete(row), prior) for row in LOG_ALPHA]
    close(kl, torch.stack(rows))
    close(kl_divergence(HardConcrete(LOG_ALPHA[:, :1]), prior)[:, :1], kl[:, :1])


@each
def test_expand_repeats_the_kl(gate, prior):
    kl = kl_divergence(gate, prior)
    wide = kl_divergence(gate.expand((4, 2, 3)), prior.expand((4, 2, 3)))
    assert wide.shape == (4, 2, 3)
    close(wide, kl.expand(4, 2, 3))
    close(kl_divergence(gate.expand((4, 2, 3)), prior), wide)


@each
def test_to_event_sums_the_kl(gate, prior):
    kl, wide = kl_divergence(gate, prior), prior.expand((2, 3))
    close(kl_divergence(gate.to_event(1), wide.to_event(1)), kl.sum(-1))
    close(kl_divergence(gate.to_event(2), wide.to_event(2)), kl.sum())
    close(kl_divergence(gate.to_event(1), prior.to_event(1)), kl.sum(-1))
    close(kl_divergence(gate.to_event(1).expand((4, 2)), wide.to_event(1)), kl.sum(-1).expand(4, 2))


@each
def test_mask_on_either_side_or_both_leaves_terms_out(gate, prior):
    kl, wide = kl_divergence(gate, prior), prior.expand((2, 3))
    close(kl_divergence(gate.mask(MASK), wide), kl * MASK)
    close(kl_divergence(gate, wide.mask(MASK)), kl * MASK)
    close(kl_divergence(gate.mask(MASK), wide.mask(MASK)), kl * MASK)
    other = torch.tensor([True, True, False])
    close(kl_divergence(gate.mask(MASK), prior.mask(other)), kl * (MASK & other))


@each
@pytest.mark.parametrize("both", [True, False])
def test_boolean_masks(gate, prior, both):
    kl, wide = kl_divergence(gate, prior), prior.expand((2, 3))
    for mask, expected in ((True, kl), (False, torch.zeros_like(kl))):
        masked = wide.mask(mask) if both else wide
        actual = torch.as_tensor(kl_divergence(gate.mask(mask), masked), dtype=F64)
        close(actual.expand(2, 3), expected)
    close(torch.as_tensor(kl_divergence(gate, wide.mask(mask=False)), dtype=F64), torch.zeros((), dtype=F64))
    close(kl_divergence(gate.mask(mask=True), wide.mask(MASK)), kl * MASK)


@each
def test_event_of_a_masked_gate(gate, prior):
    kl, wide = kl_divergence(gate, prior), prior.expand((2, 3))
    events = gate.mask(MASK).to_event(1)
    close(kl_divergence(events, wide.to_event(1)), (kl * MASK).sum(-1))
    close(kl_divergence(events, wide.mask(MASK).to_event(1)), (kl * MASK).sum(-1))
    close(kl_divergence(gate.to_event(1), wide.mask(MASK).to_event(1)), (kl * MASK).sum(-1))


@each
def test_mask_of_an_event(gate, prior):
    kl, wide, rows = kl_divergence(gate, prior), prior.expand((2, 3)), torch.tensor([True, False])
    events = gate.to_event(1).mask(rows), wide.to_event(1).mask(rows)
    close(kl_divergence(*events), kl.sum(-1) * rows)


@each
def test_a_mask_hides_the_gradient_too(prior):
    log_alpha = LOG_ALPHA.clone().requires_grad_()
    kl_divergence(HardConcrete(log_alpha).mask(MASK), prior).sum().backward()
    assert torch.equal(log_alpha.grad != 0, MASK)


@each
def test_no_gates_have_no_kl(prior):
    kl = kl_divergence(HardConcrete(torch.zeros(0, 3, dtype=F64)), prior)
    assert kl.shape == (0, 3)


@pytest.mark.parametrize("events", [(1, 0), (0, 1), (1, 2), (2, 1)], ids=str)
def test_different_event_dimensions_are_refused(gate, events):
    q, p = gate.to_event(events[0]), PRIORS["L0Prior"].expand((2, 3)).to_event(events[1])
    with pytest.raises((TypeError, NotImplementedError)):
        kl_divergence(q, p)
