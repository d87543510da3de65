# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A network from sparsify to compact
#
# What was kept, where, and how much faster it is. The data are the digits that come with scikit-learn (1,797 real
# images of 8 × 8, no download), the network is a small convolutional one, and all numbers below are what the cells
# printed, on one CPU core.

# %%
import tempfile
import warnings
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from l0bayes import compact, gate_table, sparsify
from l0bayes.inference import HardConcreteGuide, Target, TensorBatches, evaluate, fit, load, predict, save
from l0bayes.inference.data.datasets import load_data
from l0bayes.inference.system.timing import interleaved
from l0bayes.models import Classifier
from l0bayes.posterior import cost
from l0bayes.posterior.pictures import plot_gate_probabilities, plot_training, plot_training_cost

torch.set_num_threads(1)
digits = load_data("digits").with_channels()
train, validation, test = digits.train, digits.validation, digits.test
print(len(train), "images to learn from,", len(validation), "to choose by,", len(test), "to report on")

# %% [markdown]
# ## An ordinary module
#
# Nothing in it knows about gates: convolutions, batch norm, a residual addition, a flattened map, linear layers.


# %%
class Net(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(width)
        self.fc1 = nn.Linear(16 * width, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x):
        x = F.relu(self.norm1(self.conv1(x)))
        inside = F.relu(self.norm2(self.conv2(x)))
        x = F.relu(x + self.norm3(self.conv3(inside)))
        x = F.max_pool2d(x, 2).flatten(1)
        return self.fc2(F.relu(self.fc1(x)))


# %% [markdown]
# ## What can be gated
#
# `sparsify` runs the module once on an example and follows every feature to whatever reads it. The table says what goes
# when a gate closes (`*`: what is multiplied by the gate), and what stays dense, and why. `conv1` and `conv3` are added
# up, so their channels are coupled: one gate stands for both. The code cost is λ = 0.04 nat for each
# parameter; a larger one closes more.

# %%
torch.manual_seed(0)
net = Net()
sparse = sparsify(net, train.x[:2], code_cost=0.04, gates="unit")
print(str(sparse).partition("\n  (net)")[0])

# %% [markdown]
# Any module goes the same way. Here is a transformer's layer: heads and hidden units get gates; the stream stays, for
# it begins as the network's own input (and layer norm, which computes with all its features at once, would keep it).

# %%
transformer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
print(str(sparsify(transformer, torch.randn(2, 5, 16))).partition("\n  (net)")[0])

# %% [markdown]
# ## Training
#
# First the dense network, for comparison, with the same start, batches, learning rate and number of epochs.

# %%
EPOCHS, FINE_TUNE = 30, 10
held_out = [(validation.x, validation.y)]
reported = [(test.x, test.y)]


def batches():
    return TensorBatches(train.x, train.y, 64, shuffle=True)


torch.manual_seed(0)
dense = Net()
dense_model = Classifier(dense, num_data=len(train))
dense_guide = HardConcreteGuide(dense_model)
dense_run = fit(dense_model, dense_guide, batches(), epochs=EPOCHS + FINE_TUNE, lr=2e-3, progress=False)
dense.eval()
print(f"dense: {dense_run.history['seconds'].sum():.1f} s of training")

# %% [markdown]
# Then the one with gates. Each step draws them and runs the subnetwork that is open; in the last epochs gates are fixed
# at their test-time values and only what is left is trained.

# %%
torch.manual_seed(0)
model = Classifier(sparse, num_data=len(train))
guide = HardConcreteGuide(model, init_open=0.9)
run = fit(
    model,
    guide,
    batches(),
    validation_loader=held_out,
    epochs=EPOCHS,
    fine_tune=FINE_TUNE,
    lr=2e-3,
    gate_lr=5e-2,
    progress=False,
)
print(f"with gates: {run.history['seconds'].sum():.1f} s of training")
run.history["step, ms"] = 1e3 * run.history["seconds"] / run.history["steps"]
columns = ["epoch", "elbo", "expected_l0", "open_l0", "expected_macs", "open_gates", "step, ms", "validation_error"]
print(run.history.iloc[[0, 4, 9, 14, 19, 29, 39]][columns].round(3).to_string(index=False))

# %% [markdown]
# Expected multiply-accumulates (MACs) are what the gates promise; the measured step is what a clock says. Drawing
# gates and running Pyro takes time of its own: while nearly all gates are open a step takes longer than a dense one,
# and later its curve flattens where that of the MACs still falls.
# (Dashed: a step of the dense network. Dotted: from here on gates are fixed, and the ELBO no longer holds their KL.)

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3), layout="constrained", gridspec_kw={"wspace": 0.08})
plot_training(run.history, axes[0])
plot_training_cost(run.history, axes[1])
dense_step = (1e3 * dense_run.history["seconds"] / dense_run.history["steps"]).median()
steps = figure.axes[-1]  # the second axis of the second picture
steps.axhline(dense_step, color="#777777", ls="--", lw=1)
steps.set_ylim(top=1.1 * max(dense_step, run.history["step, ms"].max()))
for axis in axes:
    axis.axvline(EPOCHS, color="#777777", ls=":", lw=1)
plt.show()

# %% [markdown]
# ## What was kept, and where

# %%
table = gate_table(guide)
print(table.groupby("layer", sort=False)["open"].agg(kept="sum", of="size").to_string(), "\n")
print(table.sort_values("p_nonzero").iloc[[0, 1, len(table) // 2, -2, -1]].drop(columns="layer").round(3).to_string())

# %%
figure, axes = plt.subplots(1, 3, figsize=(10, 2.6), layout="constrained")
for axis, site in zip(axes, table["site"].unique(), strict=True):
    plot_gate_probabilities(table, site, axis)
plt.show()

# %% [markdown]
# `compact` hands over what is open as a plain module: the same class, smaller layers, no Pyro. Its outputs are those
# of the gated network at its test-time gates.

# %%
small = compact(model, guide)
print(small)
difference = (small(test.x) - predict(model, guide, test.x, gates="point")).abs().max().item()
print(f"largest difference of an output: {difference:.1e}, of outputs as large as {small(test.x).abs().max():.0f}")

# %%
layers = [name for name, layer in net.named_children() if isinstance(layer, nn.Conv2d | nn.Linear)]
counts = pd.DataFrame(
    {
        title: [sum(p.numel() for p in network.get_submodule(name).parameters()) for name in layers]
        for title, network in (("dense", dense), ("compacted", small))
    },
    index=layers,
)
figure, (before, share) = plt.subplots(1, 2, figsize=(9, 2.6), layout="constrained", sharey=True)
before.barh(layers, counts["dense"], color="#c9ced6", label="dense")
before.barh(layers, counts["compacted"], color="#1b6ca8", label="compacted")
before.set(xlabel="parameters")
before.legend(frameon=False)
bars = share.barh(layers, 100 * counts["compacted"] / counts["dense"], color="#1b6ca8")
share.bar_label(bars, fmt="%.1f %%", padding=3)
share.set(xlabel="kept, % of the layer's own", xlim=(0, 100))
before.invert_yaxis()
for axis in (before, share):
    axis.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# Filters of the first layer: all that the dense network learned, and the ones left in the compacted network.


# %%
def tiled(network, rows=4, columns=8):
    """All filters in one image, a pixel of nothing between them; each with a scale of its own."""
    tiles = torch.full((rows * columns, 4, 4), float("nan"))
    weight = network.conv1.weight.detach()[:, 0]
    tiles[: len(weight), :3, :3] = weight / weight.abs().amax((1, 2), keepdim=True)
    return tiles.reshape(rows, columns, 4, 4).transpose(1, 2).reshape(rows * 4, columns * 4)


figure, axes = plt.subplots(1, 2, figsize=(8, 2.3), layout="constrained")
for axis, (title, network) in zip(axes, {"dense": dense, "compacted": small}.items(), strict=True):
    axis.imshow(tiled(network), cmap="RdBu", vmin=-1, vmax=1)
    axis.set_title(f"{title}: {network.conv1.out_channels} filters", loc="left", fontsize=10)
    axis.axis("off")
plt.show()

# %% [markdown]
# ## How much faster
#
# Forward passes, timed in turn, so that both see the same machine; medians. A ratio of times equal to the ratio of MACs
# would be ideal. It is not reached: with few channels, what does not shrink with the square of the width (memory
# traffic, pooling, the calls themselves) makes up most of the time, and for a single image most of it.

# %%
costs = {"dense": cost(dense, test.x[:2]), "compacted": cost(small, test.x[:2])}
for name, one in costs.items():
    print(f"{name:>9}: {one.parameters:,} parameters, {one.macs:,} MACs")
kept = costs["compacted"].macs / costs["dense"].macs
print(f"    kept: {costs['compacted'].parameters / costs['dense'].parameters:.1%} and {kept:.1%}\n")

rows = []
for size in (1, 16, 256, 1024):
    x = train.x[:size]
    with torch.inference_mode():
        timing = interleaved({"dense": partial(dense, x), "compacted": partial(small, x)})
    rows.append(
        {
            "batch": size,
            "dense, ms": 1e3 * timing.seconds["dense"],
            "compacted, ms": 1e3 * timing.seconds["compacted"],
            "time ratio": timing.ratio["compacted"],
            "MACs ratio": kept,
        }
    )
print(pd.DataFrame(rows).round(3).to_string(index=False))

# %% [markdown]
# The same for training: the whole run with gates against the whole dense run, and the last steps, with the subnetwork
# fixed.

# %%
ratio = run.history["seconds"].sum() / dense_run.history["seconds"].sum()
last = run.history["step, ms"].tail(FINE_TUNE).median() / dense_step
print(f"time of the run with gates / dense: {ratio:.2f};  of a step at its end / dense: {last:.2f}")

# %% [markdown]
# ## How good
#
# Test error of the last epoch and negative log-likelihood (NLL, nats an image), of the dense network, for the three
# rules for test-time gates, and for the mean of the probabilities over 64 draws of the gates. There are 360 test
# images and one of them is 0.28 %, so a difference of two or three says little. Weights were fine-tuned at the gates of
# the paper's rule, which leaves little for the other rules and the draws to gain.

# %%
torch.manual_seed(0)
point = {rule: predict(model, guide, test.x, rule=rule).softmax(-1) for rule in ("paper", "median", "mean")}
with torch.inference_mode():
    probabilities = {"dense": dense(test.x).softmax(-1), "compacted": small(test.x).softmax(-1)}
probabilities |= {f"gates, {rule} rule": p for rule, p in point.items()}
probabilities["gates, mean of 64 draws"] = (
    predict(model, guide, test.x, gates="sample", num_samples=64).softmax(-1).mean(0)
)
scores = {
    name: {
        "test error, %": 100 * (p.argmax(-1) != test.y).double().mean().item(),
        "NLL": F.nll_loss(p.log(), test.y).item(),
    }
    for name, p in probabilities.items()
}
print(pd.DataFrame(scores).T.round(4).to_string())

# %% [markdown]
# ## Handing it over
#
# `save` writes safetensors, from which nothing can run, and the facts beside them as JSON. `load` gives a new network
# of the class the shapes in the file. A compacted network is plain, so `torch.export` takes it like any other, with a
# batch of any size.

# %%
with tempfile.TemporaryDirectory() as folder:
    full, path = Path(folder) / "dense.safetensors", Path(folder) / "compacted.safetensors"
    save(dense, full)
    save(small, path, provenance={"data": "digits", "seed": 0})
    again = load(path, Net())
    sizes = {file.name: file.stat().st_size for file in (full, path)}
print(sizes, "bytes;", "equal outputs" if torch.equal(again(test.x), small(test.x)) else "outputs differ")

# %%
batch = torch.export.Dim("batch", min=1)
program = torch.export.export(small, (test.x[:4],), dynamic_shapes=({0: batch},))
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "compacted.pt2"
    torch.export.save(program, path)
    exported = torch.export.load(path).module()
print(f"largest difference of an output: {(exported(test.x) - small(test.x)).abs().max().item():.1e}")

# %% [markdown]
# ## A size instead of a price
#
# With a `Target` a multiplier takes the place of the code cost and follows the size of the test-time network. Asked for
# a fifth of the *MACs*, the same network is cut elsewhere: MACs are in the two wide convolutions, parameters mostly in
# the first linear layer. One inner filter is worth nearly 3 % of the MACs here, so that a target can only be met to
# about as much; where it is off by more than a twentieth, `fit` warns.

# %%
torch.manual_seed(0)
by_macs = Net()
macs_model = Classifier(sparsify(by_macs, train.x[:2], code_cost=0.0), num_data=len(train))
macs_guide = HardConcreteGuide(macs_model, init_open=0.9)
with warnings.catch_warnings(record=True) as said:
    macs_run = fit(
        macs_model,
        macs_guide,
        batches(),
        target=Target(0.2, "macs"),
        epochs=EPOCHS,
        fine_tune=FINE_TUNE,
        lr=2e-3,
        gate_lr=5e-2,
        progress=False,
    )
by_macs = compact(macs_model, macs_guide)
summary = {
    name: {
        "channels": network.conv1.out_channels,
        "inner channels": network.conv2.out_channels,
        "hidden units": network.fc1.out_features,
        "parameters": f"{one.parameters / costs['dense'].parameters:.1%}",
        "MACs": f"{one.macs / costs['dense'].macs:.1%}",
        "test error": f"{100 * error:.2f}%",
    }
    for name, network, one, error in (
        ("dense", dense, costs["dense"], evaluate(dense_model, dense_guide, reported)),
        ("code cost 0.04", small, costs["compacted"], evaluate(model, guide, reported)),
        ("20 % of MACs", by_macs, cost(by_macs, test.x[:2]), evaluate(macs_model, macs_guide, reported)),
    )
}
print(pd.DataFrame(summary).T.to_string())
print("\nreached:", *(f"{share:.3f} for {target}" for target, share in macs_run.reached.items()))
print(*(f"fit said: {one.message}" for one in said), sep="\n")
