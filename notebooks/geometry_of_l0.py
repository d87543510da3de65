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
# # The geometry of L0
#
# Why is it hard to minimise a loss over vectors with few non-zeros, and what does a stochastic gate change? Two answers
# are often repeated: that the set of such vectors is *disconnected*, and that its convex hull is the L1 ball. The first
# is false, and so is the second as it stands. Here each claim is put to the computer, in dimensions small enough to
# enumerate.

# %%
import itertools
import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from matplotlib.colors import LogNorm
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from pyro.infer import SVI
from scipy.ndimage import label
from scipy.optimize import linprog, minimize
from scipy.spatial import ConvexHull
from torch.distributions import kl_divergence

from l0bayes import HardConcrete, L0Prior, SpikeAndSlabPrior
from l0bayes.inference import ClosedFormKL_ELBO, HardConcreteGuide, infer_inclusion
from l0bayes.models import SpikeSlabRegression, exact_posterior

BLUE, RED, GREY = "#1b6ca8", "#d1495b", "#777777"
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)


def l0(theta):
    """The number of non-zeros of vectors."""
    return (theta != 0).sum(-1)


# %% [markdown]
# ## The set {θ : ‖θ‖₀ ≤ k}
#
# **It is connected.** Scaling keeps the support: ‖tθ‖₀ = ‖θ‖₀ for t ≠ 0, and is 0 for t = 0. So the segment from any
# point to the origin stays inside, and any two points are joined by way of the origin.

# %%
d, k = 6, 2
a, b = torch.zeros(2, d)
a[[0, 1]], b[[3, 5]] = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
t = torch.linspace(0, 1, 1001)[:, None]
print("‖tθ‖₀ along t from 0 to 1:", sorted(set(l0(t * a).tolist())))
by_origin = torch.cat([(1 - t) * a, t * b])
largest_step = by_origin.diff(dim=0).norm(dim=1).max()
print(f"from a to b by way of the origin: ‖·‖₀ at most {l0(by_origin).max()};  largest step {largest_step:.4f}")

# %% [markdown]
# **It is not convex**: the straight segment between the same points leaves it. **It is a cone**, as seen, and **a union
# of C(d, k) subspaces**, one for each support: sums stay inside within one of them, and in general not across.

# %%
print(f"straight from a to b: ‖·‖₀ up to {l0((1 - t) * a + t * b).max()}, and k = {k}")
supports = list(itertools.combinations(range(d), k))
print(f"{len(supports)} subspaces, C({d}, {k}) = {math.comb(d, k)}")
inside = torch.zeros(len(supports), d)
for row, support in zip(inside, supports, strict=True):
    row[list(support)] = torch.randn(k)
other = inside * torch.randn(len(supports), 1) + (inside != 0) * torch.randn(len(supports), d)
print("‖θ + θ'‖₀ within a subspace:", l0(inside + other).max().item(), end=";  ")
print("across them:", sorted(set(l0(inside[:, None] + inside).flatten().tolist())))

# %% [markdown]
# What *is* disconnected is the set of vectors with **exactly** k non-zeros: no path leaves a support or changes a sign
# without passing through a point with fewer. It has C(d, k) · 2ᵏ pieces. Counted below on a grid, whose points are
# neighbours if they differ by one in one coordinate.


# %%
def non_zeros_on_grid(dimension):
    return (np.stack(np.meshgrid(*[np.arange(-2, 3)] * dimension)) != 0).sum(0)


rows = [
    {
        "d": dimension,
        "k": most,
        "pieces of ‖θ‖₀ ≤ k": label(non_zeros_on_grid(dimension) <= most)[1],
        "pieces of ‖θ‖₀ = k": label(non_zeros_on_grid(dimension) == most)[1],
        "C(d, k)·2ᵏ": math.comb(dimension, most) * 2**most,
    }
    for dimension in (2, 3, 4)
    for most in range(1, dimension + 1)
]
print(pd.DataFrame(rows).to_string(index=False))

# %% [markdown]
# ## Its convex hull
#
# **For every k ≥ 1 it is the whole space.** Any θ is the mean of the d vectors d·θⱼeⱼ, each with one non-zero. So the
# tightest convex relaxation of ‖θ‖₀ ≤ k is no constraint at all.

# %%
theta = torch.randn(d)
parts = torch.diag(d * theta)
error = (parts.mean(0) - theta).abs().max()
print(f"non-zeros of the parts: {l0(parts).tolist()};  largest error of their mean: {error:.1e}")

# %% [markdown]
# Hulls become interesting for **bounded** sets, and which norm bounds them matters:
#
# | set | convex hull |
# |---|---|
# | ‖θ‖₀ ≤ k | everything |
# | ‖θ‖₀ ≤ 1, ‖θ‖₂ ≤ 1 (or ‖θ‖∞ ≤ 1) | the L1 ball, ‖θ‖₁ ≤ 1 |
# | ‖θ‖₀ ≤ k, ‖θ‖₂ ≤ 1 | the ball of the k-support norm |
# | ‖θ‖₀ ≤ k, ‖θ‖∞ ≤ 1 | ‖θ‖₁ ≤ k and ‖θ‖∞ ≤ 1 |
#
# The second row: a point with ‖θ‖₁ = 1 is Σ |θⱼ| · sign(θⱼ)eⱼ, a convex combination of members, and no member has a
# larger L1 norm. The third: a hull is what its support function h(u) = max {u·θ} over the set says it is. That is the
# root of the sum of the k largest u² here, so the norm is the dual of h. Below, the formula of
# [Argyriou, Foygel & Srebro (2012)](https://arxiv.org/abs/1204.5043), who found and named it, against that dual,
# maximised numerically. It is the L1 norm for k = 1 and the L2 norm for k = d.


# %%
def k_support_norm(w, k):
    """Argyriou et al., proposition 2.1: w sorted, k − r − 1 entries as in L2, the sum of the others as in L1."""
    w, norm = w.abs().sort(descending=True)[0], w.new_zeros(())
    for r in reversed(range(k)):  # the smallest r counts for which the entry above exceeds the others' mean
        head, rest = w[..., : k - r - 1], w[..., k - r - 1 :].sum(-1)
        value = (head.square().sum(-1) + rest.square() / (r + 1)).sqrt()
        norm = value if r == k - 1 else torch.where(head[..., -1] > rest / (r + 1), value, norm)
    return norm


def dual_of_support_function(w, k):
    """The largest u·w with h(u) ≤ 1, that is, with no k entries of u longer than 1."""
    subsets = [list(subset) for subset in itertools.combinations(range(len(w)), k)]
    within = {"type": "ineq", "fun": lambda u: np.array([1 - u[subset] @ u[subset] for subset in subsets])}
    return -minimize(lambda u: -u @ w, w / np.linalg.norm(w), constraints=within, options={"ftol": 1e-12}).fun


w = torch.randn(5)
table = {
    most: {"formula": k_support_norm(w, most).item(), "dual of h": dual_of_support_function(w.numpy(), most)}
    for most in range(1, 6)
}
print(f"L1 norm {w.abs().sum():.6f}, L2 norm {w.norm():.6f}; k-support norms:")
print(pd.DataFrame(table).T.rename_axis("k").round(6).to_string())

# %% [markdown]
# The fourth row: points with ‖θ‖₁ ≤ k and ‖θ‖∞ ≤ 1, written by linear programming as convex combinations of vectors
# with k entries ±1; and one with ‖θ‖₁ just above k, for which there is no such combination.

# %%
dimension, most = 5, 2
corners = []
for support in itertools.combinations(range(dimension), most):
    for signs in itertools.product((-1.0, 1.0), repeat=most):
        corner = np.zeros(dimension)
        corner[list(support)] = signs
        corners.append(corner)
constraints = np.vstack([np.array(corners).T, np.ones(len(corners))])


def is_combination(point):
    return linprog(np.zeros(len(corners)), A_eq=constraints, b_eq=[*point, 1.0]).status == 0


points = np.random.default_rng(0).uniform(-1, 1, (200, dimension))
points = points * np.minimum(1, most / np.abs(points).sum(1))[:, None]
print(sum(map(is_combination, points)), "of 200 points are combinations of", len(corners), "corners")
for point in ([1, 0.5, 0.5, 0, 0], [1, 0.5, 0.5, 0.001, 0]):
    print(f"‖θ‖₁ = {sum(point)}, ‖θ‖∞ = {max(point)}: is a combination: {is_combination(point)}")

# %%
figure = plt.figure(figsize=(10, 3.5), layout="constrained")
flat = figure.add_subplot(131)
flat.fill([1, 0, -1, 0], [0, 1, 0, -1], color=BLUE, alpha=0.25, lw=0)
flat.plot([-1.4, 1.4], [0, 0], [0, 0], [-1.4, 1.4], color=RED, lw=1, ls=":")
flat.plot([-1, 1], [0, 0], [0, 0], [-1, 1], color=RED, lw=2.5)
flat.set(aspect="equal", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
flat.set_title("‖θ‖₀ ≤ 1, ‖θ‖₂ ≤ 1 in the plane:\nhull is the L1 ball", fontsize=9)
flat.spines[["top", "right"]].set_visible(False)

around = np.linspace(0, 2 * np.pi, 65)
disc = np.stack([np.cos(around), np.sin(around)], 1)
square = disc / np.abs(disc).max(1, keepdims=True)
titles = (
    "‖θ‖₀ ≤ 2, ‖θ‖₂ ≤ 1 in space:\nhull is the 2-support ball",
    "‖θ‖₀ ≤ 2, ‖θ‖∞ ≤ 1 in space:\nhull is ‖θ‖₁ ≤ 2, ‖θ‖∞ ≤ 1",
)
for place, title, edge in zip((132, 133), titles, (disc, square), strict=True):
    axis = figure.add_subplot(place, projection="3d")
    curves = [np.insert(edge, closed, 0.0, axis=1) for closed in range(3)]
    members = np.concatenate(curves)
    axis.add_collection3d(Poly3DCollection(members[ConvexHull(members).simplices], color=BLUE, alpha=0.13, lw=0))
    for curve in curves:
        axis.plot(*curve.T, color=RED, lw=1.5)
    axis.set(xticks=[-1, 0, 1], yticks=[-1, 0, 1], zticks=[-1, 0, 1], box_aspect=(1, 1, 1))
    axis.tick_params(labelsize=7, pad=-2)
    axis.view_init(24, 34)
    axis.set_title(title, fontsize=9)
plt.show()

# %% [markdown]
# So neither claim explains why descent stalls. A connected set can be hard to search, and L1, the hull of *one* bounded
# set, is another problem, not a description of this one.
#
# ## What does explain the stall
#
# **‖θ‖₀ has no slope.** It is constant around every θ without zeros; a small step at random changes nothing, and
# automatic differentiation does not even try.

# %%
theta = torch.randn(10_000, d)
moved = theta + 1e-6 * torch.randn(10_000, d)
print("changes of ‖θ‖₀ over 10,000 small steps:", (l0(moved) - l0(theta)).abs().sum().item())
print("has a gradient:", l0(theta.requires_grad_()).requires_grad)

# %% [markdown]
# **Every support holds a local minimum.** Minimise a smooth loss over one support, and take ‖y − Xθ‖² / 2σ² + λ‖θ‖₀:
# along the support there is nothing to gain, and a coordinate moved away from zero by ε costs λ at once and gains at
# most in proportion to ε. That holds for all 2ᵈ supports, good or bad.
#
# A small regression shows it: nine predictors in three groups, correlated within each, one of each group in the truth.
# Everything is small enough to enumerate.


# %%
def regression(correlation, noise, n=60):
    torch.manual_seed(0)
    common, own = torch.randn(n, 3, 1), torch.randn(n, 3, 3)
    X = (math.sqrt(correlation) * common + math.sqrt(1 - correlation) * own).reshape(n, 9)
    X = (X - X.mean(0)) / X.std(0, correction=0)
    y = X[:, [0, 4, 8]] @ torch.tensor([0.8, -0.8, 0.8]) + noise * torch.randn(n)
    return X, y - y.mean(), noise


def least_squares(X, y, supports):
    """The best coefficients on each support, rows of 0 and 1."""
    matrix = supports[:, :, None] * (X.T @ X) * supports[:, None, :] + torch.diag_embed(1 - supports)
    return torch.linalg.solve(matrix, supports * (X.T @ y))


def halved_rss(X, y, theta):
    return 0.5 * (y - theta @ X.T).square().sum(-1)


X, y, noise = regression(0.9, 0.5)
LAMBDA = 2.0
every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=9)))
minima = least_squares(X, y, every)
objective = halved_rss(X, y, minima) / noise**2 + LAMBDA * l0(minima)


def after_moves(radius):
    """The best objective over 1000 moves from each minimum, half of them along the steepest way of the loss alone."""
    slope = (minima @ X.T - y) @ X
    random = torch.randn(1000, 1, 9)
    towards = torch.where(torch.arange(1000)[:, None, None] % 2 == 0, random, random.abs() * -slope)
    near = minima + radius * towards / towards.norm(dim=-1, keepdim=True)
    return (halved_rss(X, y, near) / noise**2 + LAMBDA * l0(near)).amin(0)


for radius in (1e-4, 1e-3, 1e-2, 1e-1):
    lowered = (after_moves(radius) < objective).sum()
    print(f"moves of length {radius:g} lower the objective from {lowered} of 512 supports")
print(f"objectives of these minima: from {objective.min():.1f} to {objective.max():.1f}")

# %% [markdown]
# **Projected gradients inherit it.** Iterative hard thresholding (IHT) takes a gradient step and keeps the k largest
# entries. From a wrong support it stays there wherever the step brings no outsider above the smallest entry inside,
# which is the rule among correlated predictors: what is inside already stands in for what is outside. Here it starts
# from the least-squares fit on each of the C(9, 3) = 84 supports, with the usual step 1/L.


# %%
def iht(X, y, theta, k=3, steps=3000):
    step = 1 / torch.linalg.eigvalsh(X.T @ X)[-1]
    for _ in range(steps):
        theta = theta - step * (theta @ X.T - y) @ X
        theta = torch.zeros_like(theta).scatter(1, theta.abs().topk(k).indices, 1.0) * theta
    return theta


triples = every[every.sum(1) == 3]
problems = {"correlation 0.9, noise 0.5": regression(0.9, 0.5), "correlation 0.95, noise 1": regression(0.95, 1.0)}
stalled = {}
for name, (X, y, _) in problems.items():
    starts = least_squares(X, y, triples)
    ends = iht(X, y, starts)
    best = triples[halved_rss(X, y, starts).argmin()]
    stays = ((ends != 0) == (triples != 0)).all(1)
    right = ((ends != 0) == (best != 0)).all(1)
    stalled[name] = triples[stays & ~right]
    print(f"{name}: the best three are {best.nonzero().flatten().tolist()}.", end=" ")
    print(f"Of 84 starts {stays.sum()} stay where they are, {right.sum()} end at the best")

# %% [markdown]
# Connected as the set is, the way from one support to a better one leads *uphill*, through supports that lack something
# needed. That, and the missing slope, is the difficulty.
#
# ## What a stochastic gate changes
#
# Put a hard concrete gate on each coordinate, and minimise the *expected* loss,
#
# $$F(\log\alpha, \theta) = \mathrm{E}_q\left[\tfrac{1}{2\sigma^2}\lVert y - X(z \circ \theta)\rVert^2\right]
# + \lambda \sum_j P(z_j \neq 0).$$
#
# It has a slope everywhere in log α. With two predictors it can be drawn, with the best θ for each pair of gates in
# closed form from the gates' means and variances. In the corners, where gates are sure, it *is* the L0 objective.

# %%
SIGMA, PRICE = 0.5, 2.0


def two_predictors(correlation, n=40):
    torch.manual_seed(3)
    X = torch.linalg.qr(torch.randn(n, 3))[0] * math.sqrt(n)
    first, second = X[:, 0], correlation * X[:, 0] + math.sqrt(1 - correlation**2) * X[:, 1]
    return torch.stack([first, second], 1), 0.6 * first + SIGMA * X[:, 2]


def surface(log_alpha, X, y):
    """F at the best θ, for log α of shape (…, 2), in nats."""
    gate = HardConcrete(log_alpha)
    mean, gram, moment = gate.mean, X.T @ X, X.T @ y
    matrix = mean[..., :, None] * gram * mean[..., None, :] + torch.diag_embed(gate.variance * gram.diagonal())
    theta = torch.linalg.solve(matrix, mean * moment)
    loss = 0.5 * (y @ y - (mean * moment * theta).sum(-1)) / SIGMA**2
    return loss + kl_divergence(gate, L0Prior(PRICE)).sum(-1)


toys = {"correlation 0": two_predictors(0.0), "correlation 0.98": two_predictors(0.98)}
for name, (X, y) in toys.items():
    kinds = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    hard = halved_rss(X, y, least_squares(X, y, kinds)) / SIGMA**2 + PRICE * kinds.sum(1)
    print(f"{name}: none, first, second, both: hard {hard.numpy().round(3)}", end=" ")
    print(f"corners of F {surface(16 * (2 * kinds - 1), X, y).numpy().round(3)}")

at = torch.tensor([0.7, -1.1], requires_grad=True)
(slope,) = torch.autograd.grad(surface(at, X, y), at)
steps = 1e-5 * torch.eye(2)
by_difference = (surface(at.detach() + steps, X, y) - surface(at.detach() - steps, X, y)) / 2e-5
print("slope at (0.7, -1.1):", slope.numpy().round(6), " by differences:", by_difference.numpy().round(6))

# %% [markdown]
# Descent on this exact surface, by Adam, from the same 20 starts for both: with independent predictors all end where
# only the first gate is open. With a correlation of 0.98 there is a second valley, where the *second* stands in for the
# first. Smooth does not mean convex: mean-field gates have local optima of their own.


# %%
def descend(start, X, y, steps=1600):
    path, log_alpha = [start], start.clone().requires_grad_()
    optimizer = torch.optim.Adam([log_alpha], lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        surface(log_alpha, X, y).sum().backward()
        optimizer.step()
        path.append(log_alpha.detach().clone())
    return torch.stack(path)


torch.manual_seed(1)
starts = 11 * torch.rand(20, 2) - 5.5
axis_values = torch.linspace(-6, 6, 121)
grid = torch.stack(torch.meshgrid(axis_values, axis_values, indexing="xy"), -1)
figure, axes = plt.subplots(1, 2, figsize=(9.5, 4), layout="constrained", sharey=True)
for axis, (name, (X, y)) in zip(axes, toys.items(), strict=True):
    height = surface(grid, X, y)
    above = height - height.min() + 0.3
    levels = np.geomspace(0.3, float(above.max()), 22)
    shades = axis.contourf(axis_values, axis_values, above, levels, norm=LogNorm(), cmap="Blues_r")
    paths = descend(starts, X, y)
    right = (paths[-1, :, 0] > 0) & (paths[-1, :, 1] < 0)
    for path, fine in zip(paths.unbind(1), right, strict=True):
        inside = path[(path.abs() <= 6).all(1)]
        axis.plot(*inside.T, color="#f2c14e" if fine else RED, lw=1.2)
        axis.plot(*inside[0], "o", color="#f2c14e" if fine else RED, ms=4)
    axis.set(xlabel="log α of the first gate", xlim=(-6, 6), ylim=(-6, 6), aspect="equal")
    axis.set_title(f"{name}: {right.sum()} of 20 at the best support", loc="left", fontsize=10)
axes[0].set_ylabel("log α of the second gate")
bar = figure.colorbar(shades, ax=axes, label="nats above the lowest point", ticks=[0.3, 1.3, 3.3, 10.3, 30.3])
bar.ax.set_yticklabels(["0", "1", "3", "10", "30"])
plt.show()

# %% [markdown]
# ## SVI where iterative hard thresholding stalls
#
# Now stochastic variational inference proper, on the two regressions above: spike and slab with prior inclusion ½ and a
# standard normal slab, `HardConcreteGuide`, draws of the gates in every step. For each regression 20 of the supports on
# which IHT stalls are taken. SVI starts twice: *there*, with P(z ≠ 0) of 0.9 on the support and 0.1 elsewhere, and
# *open*, with 0.9 everywhere and random slabs, which is the usual way. All 80 runs are rows of one model, for nothing
# ties them but the sum of their ELBOs. What is found is judged by the exact posterior over all 512 supports.

# %%
torch.manual_seed(1)
chosen = {name: rows[torch.randperm(len(rows))[:20]] for name, rows in stalled.items()}
runs = []
for name, rows in chosen.items():
    X, y, noise = problems[name]
    runs.append((name, "there", X, y, noise, 0.1 + 0.8 * rows, least_squares(X, y, rows)))
    runs.append((name, "open", X, y, noise, torch.full((20, 9), 0.9), 0.5 * torch.randn(20, 9)))
X_rows = torch.cat([X.expand(20, *X.shape) for _, _, X, *_ in runs])
y_rows = torch.cat([y.expand(20, -1) for *_, y, _, _, _ in runs])
noise_rows = torch.cat([torch.full((20, 1), noise) for *_, noise, _, _ in runs])


def many():
    with pyro.plate("starts", len(X_rows), dim=-2):
        with pyro.plate("predictors", 9, dim=-1):
            z = pyro.sample("z", SpikeAndSlabPrior(0.5))
            w = pyro.sample("w", dist.Normal(0.0, 1.0), infer={"gate": "z"})
        with pyro.plate("data", y_rows.shape[1], dim=-1):
            pyro.sample("y", dist.Normal(torch.einsum("snp,sp->sn", X_rows, z * w), noise_rows), obs=y_rows)


pyro.set_rng_seed(0)
guide = HardConcreteGuide(many)
with torch.no_grad():
    gate = guide.gates()["z"]
    shift = gate.log_alpha - gate.prob_nonzero.logit()  # P(z ≠ 0) is the sigmoid of log α up to a constant
    guide.get_parameter("log_alpha.z").copy_(torch.cat([probs for *_, probs, _ in runs]).logit() + shift)
    guide.get_parameter("loc.w").copy_(torch.cat([loc for *_, loc in runs]))
svi = SVI(many, guide, pyro.optim.Adam({"lr": 0.03}), ClosedFormKL_ELBO())
for _ in range(3000):
    svi.step()

# %%
exact = {name: exact_posterior(X, y, noise, 1.0) for name, (X, y, noise) in problems.items()}
bits = 2 ** torch.arange(9)
ended = (guide.gates()["z"].prob_nonzero.detach() > 0.5).split(20)
rows, gaps = [], {}
for (name, way, *_), supports in zip(runs, ended, strict=True):
    log_probs = torch.tensor(exact[name].log_probs)
    found = log_probs[(supports * bits).sum(1)]
    gaps[name, way] = (found - log_probs.max()).numpy()
    gaps[name, "IHT"] = (log_probs[(chosen[name].long() * bits).sum(1)] - log_probs.max()).numpy()
    rows.append(
        {
            "regression": name,
            "start": way,
            "still there": (supports == (chosen[name] != 0)).all(1).sum().item(),
            "better than IHT": (gaps[name, way] > gaps[name, "IHT"]).sum(),
            "the most probable": (found == log_probs.max()).sum().item(),
            "different ends": len(supports.unique(dim=0)),
            "median rank of 512": int((log_probs > found[:, None]).sum(1).median()) + 1,
        }
    )
print("of 20 runs each")
print(pd.DataFrame(rows).to_string(index=False))

# %%
figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.4), layout="constrained")
jitter = np.random.default_rng(0).uniform(-0.08, 0.08, 20)
for axis, name in zip(axes, problems, strict=True):
    before, there, opened = (-gaps[name, way] for way in ("IHT", "there", "open"))
    axis.plot([0 * before, 0 * before + 1], [before, there], color=GREY, lw=0.7, alpha=0.6)
    for place, values, colour in ((0, before, RED), (1, there, BLUE), (2, opened, BLUE)):
        axis.plot(place + jitter, values, "o", color=colour, ms=5, alpha=0.6, mec="none")
    axis.set_yscale("symlog", linthresh=1)
    axis.set_ylim(bottom=-0.15)
    axis.set_xticks([0, 1, 2], ["where IHT stalls", "SVI from there", "SVI, all open"])
    axis.set_title(name, loc="left", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
axes[0].set_ylabel("nats below the most probable support")
plt.show()

# %% [markdown]
# Where the data are clear, SVI with all gates open nearly always finds the most probable support, which projected
# gradients reach from few starts; and a wrong support it leaves, if not for the best in these 3000 steps, for a better
# one. That a draw may open any gate is what carries it over. Where data are weak and predictors nearly alike it stays
# at many of the same places, or ends in others: what a gate gains depends on which others are open, a mean-field guide
# knows no such dependence, and its ELBO has an optimum for each way to resolve it. A smooth objective is one that can
# be descended, not one without traps.
#
# For a regression of this size nobody need rely on one start. `infer_inclusion(…, "importance")` mixes many, weighs
# draws of supports by their marginal likelihoods, and says where a guide is not to be trusted:

# %%
name = "correlation 0.95, noise 1"
X, y, noise = problems[name]
model = SpikeSlabRegression(X, y, noise_scale=noise, slab_scale=1.0)
one_start = guide.gates()["z"].prob_nonzero.detach()[-20]  # the first of the runs with all gates open
found = infer_inclusion(model, "importance")
comparison = {
    "exact": exact[name].inclusion,
    "one mean-field run": one_start,
    "infer_inclusion": found.table["inclusion"],
}
print(pd.DataFrame({key: np.asarray(value) for key, value in comparison.items()}).T.round(3).to_string())
print("diagnostics:", found.diagnostics or "none")
