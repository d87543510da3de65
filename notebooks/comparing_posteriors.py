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
# # Comparing posterior gate probabilities
#
# A gate probability can be two things: the state of an optimiser that was told to be sparse, or a belief. This
# notebook puts both beside the truth, on data where the truth can be enumerated: scikit-learn's diabetes data, 442
# patients, 10 predictors, 1,024 models. Then it asks what seeds, priors and λ do to the answer, with
# [ArviZ](https://www.arviz.org) for what it is good at.

# %%
import logging
import warnings

warnings.filterwarnings("ignore")  # what ArviZ, pandas and matplotlib say to each other
logging.getLogger("arviz").setLevel(logging.ERROR)

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_diabetes, load_digits
from torch import nn

from l0bayes import gate_table, sparsify, to_arviz
from l0bayes.inference import HardConcreteGuide, TensorBatches, fit, infer_inclusion
from l0bayes.models import MLP, Classifier, Regressor, SpikeSlabRegression, exact_posterior
from l0bayes.posterior.model_size import size_distribution
from l0bayes.posterior.pictures import (
    plot_agreement,
    plot_inclusion,
    plot_inclusion_agreement,
    plot_model_size,
)

torch.set_num_threads(1)
NOISE, SLAB = 0.7, 0.5

data = load_diabetes(as_frame=True)
X = data.data / data.data.std(ddof=0)
y = (data.target - data.target.mean()) / data.target.std(ddof=0)
names = list(X.columns)
exact = exact_posterior(X, y, NOISE, SLAB)
print(pd.Series(exact.inclusion, names).round(3).to_string())
print(X[["s1", "s2", "s3", "s4", "s5"]].corr().round(2).to_string())

# %% [markdown]
# Five of the blood values, s1 to s5, stand in for each other: s1 and s2 correlate at 0.9. That is where beliefs are
# hard.
#
# ## The paper's objective, and the full posterior
#
# A linear layer with a gate on each input, twice. Under the paper's objective each open gate costs λ nats and weights
# are points: the entropy of the gates is dropped, and the slab's KL fixed to λ. Under the full posterior the gates
# have a prior, and each weight a normal posterior whose KL says what it costs; there is no λ to choose.

# %%
x_tensor = torch.tensor(X.to_numpy(), dtype=torch.float32)
x_tensor, y_tensor = x_tensor - x_tensor.mean(0), torch.tensor(y.to_numpy(), dtype=torch.float32)[:, None]


def linear_layer(seed=0, **options):
    """P(z ≠ 0) of the ten inputs of a linear layer."""
    torch.manual_seed(seed)
    sparse = sparsify(nn.Linear(10, 1, bias=False), x_tensor[:2], gates="input", **options)
    model = Regressor(sparse, num_data=len(X), noise_scale=NOISE)
    guide = HardConcreteGuide(model, init_open=0.5)
    loader = [(x_tensor, y_tensor)]
    fit(model, guide, loader, epochs=900, lr=0.02, gate_lr=0.02, schedule="cosine", progress=False)
    return gate_table(guide)["p_nonzero"].to_numpy()


LAMBDAS = (0.1, 0.5, 2.0, 4.0)
paper = {code_cost: linear_layer(code_cost=code_cost) for code_cost in LAMBDAS}
full = linear_layer(slab="normal", slab_scale=SLAB, inclusion=0.5)
table = pd.DataFrame({"exact": exact.inclusion, "full": full, **{f"λ = {k}": v for k, v in paper.items()}}, names)
errors = table.sub(table["exact"], axis=0).abs().max().rename("largest error")
print(pd.concat([table, errors.to_frame().T]).round(2).to_string())

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 3.4), layout="constrained", width_ratios=(1.3, 1))
plot_inclusion({"exact": exact.inclusion, "full, mean field": full, "paper, λ = 2": paper[2.0]}, names, axes[0])
lines = np.stack([paper[code_cost] for code_cost in LAMBDAS])
for values, name, truth in zip(lines.T, names, exact.inclusion, strict=True):
    (line,) = axes[1].plot(LAMBDAS, values, "o-", markersize=3, linewidth=1, label=name)
    axes[1].axhline(truth, xmin=0.97, color=line.get_color())
axes[1].set(xscale="log", xlabel="λ, nats", ylabel="P(z ≠ 0), the paper's objective", ylim=(0, 1.02))
axes[1].legend(fontsize=7, ncols=2, frameon=False)
axes[1].spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# Under the paper's objective a gate says whether an input is worth λ, and its probability goes wherever λ sends it
# (ticks on the right are the exact probabilities). No λ makes all ten agree with the beliefs: it is no posterior, and
# was not meant as one. The full objective needs no λ. What is certain it finds; what is irrelevant it has too open, for
# a relaxed gate that is open in part still counts as open; and where predictors compete, s1 to s3, it is wrong, since
# a mean-field guide has one probability for each gate, and chooses one of the ways to explain the data.
#
# ## Methods that know that gates depend on each other
#
# `infer_inclusion` has methods of rising faithfulness. It checks the variational ones against importance sampling, and
# says what speaks against each. By default it enumerates or, with more predictors, samples (`"gibbs"`), which knows the
# Monte Carlo error of each of its probabilities.

# %%
model = SpikeSlabRegression(X, y, noise_scale=NOISE, slab_scale=SLAB)
found = {
    method: infer_inclusion(model, method) for method in ("mean-field", "binary", "mixture", "importance", "gibbs")
}
for method, it in found.items():
    error = np.abs(it.inclusion - exact.inclusion).max()
    diagnostics = "; ".join(it.diagnostics) or "none"
    print(f"{method:>10}: largest error {error:.3f}.  diagnostics: {diagnostics}")

figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained", width_ratios=(1.6, 1, 1))
shown = {method: found[method].inclusion for method in ("binary", "mixture", "importance", "gibbs")}
plot_inclusion({"exact": exact.inclusion, **shown}, names, axes[0])
plot_inclusion_agreement(
    exact.inclusion, found["mean-field"].inclusion, axes[1], labels=("exact", "hard concrete, mean field")
)
plot_model_size({"exact": exact.sizes, **{method: found[method].sizes for method in shown}}, axes[2])
plt.show()

# %% [markdown]
# Groups of correlated predictors say more than their members: that *some* of s1, s2, s3, s4 matters is certain,
# whatever one believes of each. The most probable models share what is certain and swap the rest; the median
# probability model takes all predictors above one half.

# %%
best = found["gibbs"]
for group in (["s1", "s2"], ["s1", "s2", "s3", "s4"], ["age", "s6"]):
    print(f"P(any of {', '.join(group)}): {best.group_inclusion(group):.3f}, exact {exact.group_inclusion(group):.3f}")
print("median probability model:", ", ".join(best.median_model), "| exact:", ", ".join(exact.median_model))
tops = pd.concat({"gibbs": best.top_models(4), "exact": exact.top_models(4)})
print(tops.to_string())

# %% [markdown]
# ## Scales that nobody knows
#
# So far noise and slab were given, as they never are. By default they are integrated out, with the noise under the
# reference prior and the slab relative to the noise and to each column's standard deviation, after Zellner and Siow. It
# has no units: the raw data, in whatever units they were measured, give what the standardised ones do. What comes back
# summarises, predicts and goes to ArviZ, where chains are real chains.

# %%
raw = load_diabetes(as_frame=True, scaled=False)
unknown = infer_inclusion(SpikeSlabRegression(raw.data, raw.target), "gibbs")
standardised = infer_inclusion(SpikeSlabRegression(X, y))
print(unknown.summary().round(3).to_string())
print(f"largest difference to the standardised data: {np.abs(unknown.inclusion - standardised.inclusion).max():.3f}")
print(unknown.scales.round(2).to_string())
print(unknown.predict(raw.data.head(3)).round(1).to_string())
print(f"log Bayes factor of bmi, s5 against bmi alone: {unknown.bayes_factor(['bmi', 's5'], ['bmi'], log=True):.1f}")
draws = to_arviz(unknown, num_samples=250)
print(az.summary(draws, var_names=["coefficient"], kind="diagnostics").round(2).to_string())
unknown.plot()
plt.show()

# %% [markdown]
# ## Priors
#
# A prior probability of one half for every predictor is a prior for half of them. Others: a number of predictors to
# expect, or a probability that is itself unknown, with a Beta prior, which lets the data say how many there are.

# %%
priors = {
    "inclusion 0.5": {"inclusion": 0.5},
    "3 expected": {"expected_open": 3},
    "Beta(1, 1)": {"inclusion": torch.distributions.Beta(1.0, 1.0)},
}
by_prior, sizes = {}, {}
for name, options in priors.items():
    answer = infer_inclusion(SpikeSlabRegression(X, y, noise_scale=NOISE, slab_scale=SLAB, **options))
    truth = exact_posterior(X, y, NOISE, SLAB, options.get("inclusion", 0.3))
    by_prior[name], sizes[name] = answer.inclusion, answer.sizes
    print(f"{name}: largest error against enumeration {np.abs(answer.inclusion - truth.inclusion).max():.3f}")
figure, axes = plt.subplots(1, 2, figsize=(11, 3.2), layout="constrained", width_ratios=(1.5, 1))
plot_inclusion(by_prior, names, axes[0])
plot_model_size(sizes, axes[1])
plt.show()

# %% [markdown]
# ## Seeds, in ArviZ
#
# Four guides of one model, trained from different seeds: a chain each. Their draws are independent, so within a chain
# R-hat and ESS say nothing. Across chains R-hat says whether the seeds agree: about the coefficient of age they do
# (1.01), about those of s4 and s6 they do not (1.4 and 1.3), and their gates say the same. Mean field has several
# optima, and a seed chooses.

# %%
guides = {}
for seed in range(4):
    torch.manual_seed(seed)
    guide = HardConcreteGuide(model, init_open=0.5)
    with torch.no_grad():  # start at different gates, which a seed of the draws alone hardly does
        guide.get_parameter("log_alpha.gate").add_(2 * torch.randn(10, dtype=torch.float64))
    options = {"epochs": 1200, "lr": 0.02, "gate_lr": 0.02, "schedule": "cosine", "progress": False}
    fit(model, guide, [model.data], **options)
    guides[f"seed {seed}"] = guide
idata = to_arviz(guides, num_samples=500, data=())
print(idata.posterior.attrs["r_hat"])
# A gate that is open in part trades with its slab; what both seeds mean by a predictor is their product, "coefficient".
summary = az.summary(idata, var_names=["coefficient"], kind="all", round_to=3)
included = (idata.posterior["gate"] != 0).mean("draw").to_numpy()
summary[[f"P(z ≠ 0), {name}" for name in guides]] = included.T.round(2)
print(summary.drop(columns=["hdi_3%", "hdi_97%", "mcse_mean", "mcse_sd", "ess_bulk", "ess_tail"]).to_string())

# %%
az.plot_forest(idata, var_names=["coefficient"], figsize=(8, 6), combined=False, textsize=8)
plt.show()
figure, axis = plt.subplots(figsize=(4.6, 3.6), layout="constrained")
plot_agreement(gate_table(guides), "overlap", axis)
plt.show()

# %% [markdown]
# The log-likelihood of each patient under each draw comes with `data=`, so models compare by leave-one-out predictive
# density, here with and without the blood values; and replicates of the data show whether the model can produce them.

# %%
few = SpikeSlabRegression(X[["age", "sex", "bmi", "bp"]], y, noise_scale=NOISE, slab_scale=SLAB)
torch.manual_seed(0)
few_guide = HardConcreteGuide(few, init_open=0.5)
fit(few, few_guide, [few.data], epochs=800, lr=0.02, gate_lr=0.02, schedule="cosine", progress=False)
without = to_arviz(few_guide, num_samples=500, data=())
comparison = az.compare({"ten predictors": idata, "without s1 to s6": without})
print(comparison[["rank", "elpd_loo", "p_loo", "elpd_diff", "dse"]].round(1).to_string())
az.plot_ppc(idata, num_pp_samples=60, figsize=(6, 3))
plt.show()

# %% [markdown]
# ## A network
#
# The same comparison where nothing can be enumerated: the 64 pixels and 32 hidden units of a small network on
# scikit-learn's digits, under the paper's objective and under the full posterior, two seeds each.

# %%
digits = load_digits()
images = torch.tensor(digits.data / 16, dtype=torch.float32)
labels = torch.tensor(digits.target)
OBJECTIVES = {
    "λ = 0.1": {"code_cost": 0.1},
    "full": {"slab": "normal", "inclusion": 0.5},
}
networks = {}
for objective, options in OBJECTIVES.items():
    for seed in range(2):
        torch.manual_seed(seed)
        sparse = sparsify(MLP(64, 32, 10), images[:2], gates="input", **options)
        classifier = Classifier(sparse, num_data=len(images))
        guide = HardConcreteGuide(classifier)
        loader = TensorBatches(images, labels, 128, shuffle=True)
        fit(classifier, guide, loader, epochs=50, kl_warmup=20, lr=5e-3, gate_lr=2e-2, progress=False)
        networks[f"{objective}, {seed}"] = guide
tables = {name: gate_table(guide) for name, guide in networks.items()}
for name, table in tables.items():
    opened = table.groupby("site", sort=False)["open"].sum()
    print(f"{name}: {opened['fc1.input']} of 64 pixels, {opened['fc2.input']} of 32 hidden units")

figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained", width_ratios=(1, 1.2))
plot_agreement(gate_table(networks), "overlap", axes[0], site="fc1.input")
pixels = {name: table[table["site"] == "fc1.input"]["p_nonzero"] for name, table in tables.items()}
plot_model_size({name: size_distribution(pixels[name]) for name in ("λ = 0.1, 0", "full, 0")}, axes[1])
plt.show()

# %% [markdown]
# Seeds agree on the pixels nearly wholly, objectives less: λ keeps what pays its price, the full posterior what it
# has reason to believe in. Hidden units have no names, and agree only by accident; compare their number, not their
# identity.
