"""Several batches make one step, of a gradient that is not too large; and other ways to run the same network."""

import math
from types import SimpleNamespace

import pytest
import torch
from drawn import fit
from torch import nn
from toy_problem import ROWS, assert_equal_states, blobs, loader, pair, state

from l0bayes import compact, sparsify
from l0bayes.inference import ClosedFormKL_ELBO, HardConcreteGuide, TensorBatches, predict
from l0bayes.models import Classifier


def fixed_pair(**options):
    """Gates that are certainly open or certainly closed: nothing is random, and no gate has a gradient."""
    model, guide = pair(**options)
    with torch.no_grad():
        for log_alpha in guide.parameters():
            log_alpha.fill_(60.0)
            log_alpha[0] = -60.0
    return model, guide


def equal_batches(number):
    x, y = blobs()
    return list(zip(x.chunk(number), y.chunk(number), strict=True))


def step_of(model, guide, batches, **options):
    """Parameters after one step of plain gradient descent."""
    optimizer = torch.optim.SGD([*model.parameters(), *guide.parameters()], lr=1e-3)
    result = fit(model, guide, batches, epochs=1, optimizer=optimizer, progress=False, **options)
    assert result.history["steps"].tolist() == [1]
    return state(model, guide), result


# -- accumulation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [2, 5, 10])
def test_equal_batches_make_the_step_of_the_joint_one(number):
    joint, of_joint = step_of(*fixed_pair(), [blobs()])
    apart, of_parts = step_of(*fixed_pair(), equal_batches(number), accumulate=number)
    torch.testing.assert_close(apart, joint, rtol=1e-5, atol=1e-6)
    elbos = [result.history["elbo"].item() for result in (of_joint, of_parts)]
    assert elbos[0] == pytest.approx(elbos[1], rel=1e-5)


def test_each_batch_has_draws_of_its_own():
    """The gradient is the mean of those that the batches have one after the other."""
    model, guide = pair()
    torch.manual_seed(2)
    rows = []
    for batch in equal_batches(2):
        loss = ClosedFormKL_ELBO().differentiable_loss(model, guide, *batch)
        rows.append(torch.autograd.grad(loss, [*model.parameters(), *guide.parameters()]))
    before = [parameter.detach().clone() for parameter in (*model.parameters(), *guide.parameters())]
    torch.manual_seed(2)
    step_of(model, guide, equal_batches(2), accumulate=2)
    after = [*model.parameters(), *guide.parameters()]
    for start, end, one, other in zip(before, after, *rows, strict=True):
        torch.testing.assert_close(end.detach(), start - 1e-3 * (one + other) / 2, rtol=1e-5, atol=1e-6)


def test_the_last_step_of_an_epoch_takes_what_is_left():
    model, guide = fixed_pair()
    result = fit(model, guide, equal_batches(5), epochs=2, accumulate=2, progress=False)
    assert result.history["steps"].tolist() == [3, 3]


@pytest.mark.parametrize("interrupted", [1, 2, 3])
def test_it_is_resumed(interrupted, tmp_path):
    ends = []
    for name, stops in (("whole", [4]), ("parts", [interrupted, 4])):
        for epochs in stops:
            model, guide = pair()
            fit(model, guide, loader(10), epochs=epochs, accumulate=3, checkpoint=tmp_path / name, progress=False)
        ends.append(state(model, guide))
    assert_equal_states(*ends)


# -- clipping --------------------------------------------------------------------------------------------------------


def gradients(clip_norm, number=1):
    model, guide = fixed_pair()
    step_of(model, guide, equal_batches(number), clip_norm=clip_norm, accumulate=number)
    found = [p.grad for p in (*model.parameters(), *guide.parameters())]
    return torch.cat([g.flatten() for g in found])


@pytest.mark.parametrize("number", [1, 5])
@pytest.mark.parametrize("share", [0.01, 0.5])
def test_the_norm_is_that_of_the_mean_loss_and_bounded(share, number):
    free = gradients(None)
    bound = share * free.norm().item() / ROWS
    clipped = gradients(bound, number)
    assert clipped.norm().item() == pytest.approx(bound * ROWS, rel=1e-4)
    torch.testing.assert_close(clipped, free * share, rtol=1e-3, atol=1e-4)


def test_what_is_within_the_bound_stays():
    free = gradients(None)
    assert torch.equal(gradients(1.01 * free.norm().item() / ROWS), free)


# -- bfloat16 and channels last --------------------------------------------------------------------------------------


class SmallConvNet(nn.Module):
    """Convolutions, pooling and two linear layers."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 8, 3)
        self.fc1, self.fc2 = nn.Linear(32, 12), nn.Linear(12, 3)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.conv1(x).relu(), 2)
        x = nn.functional.max_pool2d(self.conv2(x).relu(), 2)
        return self.fc2(self.fc1(x.flatten(1)).relu())


@pytest.fixture
def images():
    x = torch.randn(24, 1, 14, 14)
    return SimpleNamespace(x=x, y=(x.mean((1, 2, 3)) > 0).long())


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
def test_images_train_in_any_layout_and_precision(images, bf16, channels_last):
    model = Classifier(sparsify(SmallConvNet(), images.x[:2]), 24)
    guide = HardConcreteGuide(model)
    layouts, dtypes = [], []

    def watch(_, args, output):
        layouts.append(args[0].is_contiguous(memory_format=torch.channels_last))
        dtypes.append(output.dtype)

    model.net.net.conv2.register_forward_hook(watch)
    batches = TensorBatches(images.x, images.y, 8)
    result = fit(model, guide, batches, epochs=2, bf16=bf16, channels_last=channels_last, progress=False)
    assert all(map(math.isfinite, result.history["elbo"]))
    parameters = {**dict(model.named_parameters()), **dict(guide.named_parameters())}
    assert {parameter.dtype for parameter in parameters.values()} == {torch.float32}
    assert all(parameter.isfinite().all() for parameter in parameters.values())
    assert model.net.net.conv2.weight.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert dtypes[-1] == (torch.bfloat16 if bf16 else torch.float32)
    assert not channels_last or all(layouts[1:])  # before them the batch is looked at as it came
    torch.testing.assert_close(compact(model, guide)(images.x), predict(model, guide, images.x), rtol=1e-4, atol=1e-5)


def test_bfloat16_leaves_the_kl_as_it_is(images):
    """The losses differ by the rounding of logits, far less than a KL in bfloat16 would."""
    elbos = []
    for bf16 in (False, True):
        torch.manual_seed(5)
        model = Classifier(sparsify(SmallConvNet(), images.x[:2], code_cost=100.0), 24)
        guide = HardConcreteGuide(model, init_open=0.7)
        batches = [(images.x, images.y)]
        elbos.append(fit(model, guide, batches, epochs=1, bf16=bf16, progress=False).history["elbo"].item())
    assert elbos[0] < -1e4
    assert abs(elbos[0] - elbos[1]) < 1.0
    assert elbos[0] != elbos[1]
