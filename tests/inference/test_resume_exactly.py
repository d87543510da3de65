"""Where it is easy to resume a run that looks the same and is not: layouts, augmentation, changed settings."""

import signal
from functools import partial

import pytest
import torch
from drawn import fit
from test_resume import EPOCHS, STEPS, start
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler, RandomSampler, SubsetRandomSampler
from toy_problem import Surprise, assert_equal_checkpoints, assert_equal_states, blobs, loader, pair, state

from l0bayes import sparsify
from l0bayes.errors import DivergenceError, FileFormatError
from l0bayes.inference import HardConcreteGuide, Target, TensorBatches, parameter_groups, shrink
from l0bayes.inference.data.loaders import first_batch
from l0bayes.models import Classifier

ctrl_c = partial(signal.raise_signal, signal.SIGINT)


class Noisy(Dataset):
    """Rows with noise of their own in each epoch."""

    def __init__(self):
        self.x, self.y = blobs()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, row):
        return self.x[row] + 0.1 * torch.randn(6), self.y[row]


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


LOADERS = {
    "augmented batches": lambda: TensorBatches(*blobs(), 20, shuffle=True, augment=lambda x: x + torch.randn_like(x)),
    "random rows": lambda: DataLoader(Noisy(), 20, shuffle=True),
    "a generator of its own": lambda: DataLoader(Noisy(), 20, shuffle=True, generator=seeded()),
    "a sampler's own": lambda: DataLoader(Noisy(), 20, sampler=SubsetRandomSampler(range(50), seeded())),
    "a batch sampler": lambda: DataLoader(
        Noisy(), batch_sampler=BatchSampler(RandomSampler(range(50), generator=seeded()), 20, drop_last=False)
    ),
    "an order by the epoch": lambda: DataLoader(Noisy(), 20, sampler=DistributedSampler(Noisy(), 1, 0)),
}


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("step", [1, 2, STEPS + 2, 3 * STEPS])
def test_augmentation_goes_on_where_it_was(kind, step, tmp_path):
    expected, _ = start(tmp_path / "whole", LOADERS[kind]())
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "parts", Surprise(LOADERS[kind](), step, ctrl_c))
    end, _ = start(tmp_path / "parts", LOADERS[kind](), seed=99)
    assert_equal_states(end, expected)
    assert_equal_checkpoints(tmp_path / "whole", tmp_path / "parts")


def test_samplers_are_told_the_epoch(tmp_path):
    sampler = DistributedSampler(Noisy(), 1, 0)
    told = []
    sampler.set_epoch = told.append
    start(tmp_path / "run", DataLoader(Noisy(), 20, sampler=sampler))
    assert told == list(range(EPOCHS))


def test_looking_at_the_first_batch_leaves_the_loaders_generator_alone():
    generator = seeded()
    first_batch(DataLoader(Noisy(), 20, shuffle=True, generator=generator))
    assert torch.equal(generator.get_state(), seeded().get_state())


@pytest.mark.parametrize(("before", "after"), [(None, 1), (1, None)])
def test_a_checkpoint_belongs_to_a_loader_with_as_many_generators(before, after, tmp_path):
    def loaded(seed):
        return DataLoader(Noisy(), 20, shuffle=True, generator=seed and seeded(seed))

    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "run", Surprise(loaded(before), 2, ctrl_c))
    with pytest.raises(FileFormatError, match="random generators of its own"):
        start(tmp_path / "run", loaded(after))


def images(seed=0):
    torch.manual_seed(seed)
    x, y = torch.randn(24, 3, 8, 8), torch.arange(24) % 3
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3))
    model = Classifier(sparsify(net, x[:2], gates="unit"), 24)
    return model, HardConcreteGuide(model, init_open=0.7), TensorBatches(x, y, 8, shuffle=True)


@pytest.mark.parametrize("stop", [2, 3, 5])
def test_moments_lie_as_their_parameters_do(stop, tmp_path):
    """Adam's fused kernel walks through both; a checkpoint knows no channels-last."""
    ends = []
    for name, stops in (("whole", ()), ("parts", (stop,))):
        for at in (*stops, None):
            model, guide, batches = images()
            batches = batches if at is None else Surprise(batches, at, ctrl_c)
            torch.manual_seed(1)
            try:
                fit(model, guide, batches, epochs=3, channels_last=True, checkpoint=tmp_path / name, progress=False)
            except KeyboardInterrupt:
                assert at is not None
        ends.append(state(model, guide))
    assert_equal_states(*ends)


def test_shrinking_keeps_channels_last():
    model, guide, batches = images()
    fit(model, guide, batches, epochs=1, channels_last=True, progress=False)
    optimizer = torch.optim.Adam(parameter_groups(nn.ModuleList([model, guide])), fused=True)
    with torch.no_grad():
        guide.parameter("log_alpha.0.unit")[:4] = -40
    assert shrink(model, guide, optimizer) == {"0.unit": 4}
    weight = dict(model.named_parameters())["net.net.2.weight"]
    assert weight.shape == (8, 4, 3, 3)
    assert weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.filterwarnings("ignore:target.*was not reached")
@pytest.mark.parametrize(
    ("first", "then", "message"),
    [
        ({"accumulate": 2}, {"accumulate": 1}, "accumulate=2, now it is 1"),
        ({"kl_warmup": 2.0}, {}, r"kl_warmup=2\.0, now it is 0\.0"),
        ({}, {"clip_norm": 1.0}, r"clip_norm=None, now it is 1\.0"),
        ({"target": Target(0.6)}, {"target": Target(0.3)}, r"target=\['0.6 of the parameters'\], now it is \['0.3"),
    ],
)
def test_another_run_in_the_same_file_is_refused(first, then, message, tmp_path):
    start(tmp_path / "run", epochs=2, **first)
    with pytest.raises(FileFormatError, match=f"it was written with {message}"):
        start(tmp_path / "run", **then)


@pytest.mark.parametrize("schedule", ["cosine", "steps"])
def test_more_epochs_stretch_a_schedule(schedule, tmp_path):
    start(tmp_path / "run", epochs=2, schedule=schedule)
    _, result = start(tmp_path / "run", epochs=EPOCHS, schedule=schedule)
    assert len(result.history) == EPOCHS


def test_learning_rates_are_as_given_after_a_run():
    model, guide = pair()
    optimizer = torch.optim.Adam(parameter_groups(nn.ModuleList([model, guide]), lr=0.02, gate_lr=0.1))
    fit(model, guide, loader(), epochs=3, schedule="cosine", optimizer=optimizer, progress=False)
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, 0.1]


def test_parameters_that_are_not_finite_never_replace_a_good_checkpoint(tmp_path):
    """The loss of an epoch's last step is taken before the step."""
    path = tmp_path / "run"
    model, guide = pair()
    batch = blobs()
    fit(model, guide, [batch], epochs=1, checkpoint=path, progress=False)
    content = path.read_bytes()

    def ruin(_module, _arguments, _output):
        for parameter in model.parameters():
            parameter.register_hook(lambda gradient: gradient * torch.inf)

    model, guide = pair()
    model.register_forward_hook(ruin)
    with pytest.raises(DivergenceError, match=r"no longer finite after epoch 2\. The last good state is in"):
        fit(model, guide, [batch], epochs=2, checkpoint=path, progress=False)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (lambda m, _: torch.optim.Adam(m.parameters()), {}, ValueError, r"optimizer leaves out guide\.log_alpha"),
        (lambda *_: object(), {}, TypeError, r"optimizer must be a torch\.optim\.Optimizer, adam or sgd; got object"),
        (
            lambda m, g: torch.optim.Adam([*m.parameters(), *g.parameters()]),
            {"weight_decay": 0.1},
            ValueError,
            r"weight_decay=0\.1 is not for an optimizer of one's own",
        ),
    ],
)
def test_an_optimizer_that_would_not_do_what_is_meant(make, options, error, message):
    model, guide = pair()
    with pytest.raises(error, match=message):
        fit(model, guide, loader(), epochs=1, optimizer=make(model, guide), progress=False, **options)


@pytest.mark.filterwarnings("ignore:target.*was not reached")
def test_patience_waits_for_a_target_to_be_where_it_goes():
    """Its goal descends over the first half, in which the error hardly falls."""
    model, guide = pair()
    options = {"target": Target(0.5), "epochs": 20, "patience": 1, "fine_tune": 2, "gate_lr": 0.1, "progress": False}
    history = fit(model, guide, loader(), validation_loader=loader(), **options).history
    assert len(history) >= 10 + 2
