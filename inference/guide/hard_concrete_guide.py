"""The mean-field guide: hard concrete for gates, normal or point for everything else."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide.initialization import InitMessenger, init_to_feasible
from torch import Tensor, nn

from l0bayes.arguments import checked
from l0bayes.distributions import HardConcrete
from l0bayes.errors import StructureError
from l0bayes.find_sparse import sparse_modules
from l0bayes.inference.guide.bound_to_model import BoundToModel
from l0bayes.inference.guide.families import BetaFamily, Family, GateFamily, NormalFamily, PointFamily
from l0bayes.inference.guide.latent_site import LatentSite, check_slabs, full_size, is_gate, reference, unwrap
from l0bayes.min_units import held_open, open_at_least
from l0bayes.owned_module import OwnedModule
from l0bayes.threads import one_thread

Others = Literal["normal", "point"]

_INIT_OPEN = 0.8
_KINDS = ("log_alpha", "loc", "log_scale", "log_concentration1", "log_concentration0")


class HardConcreteGuide(OwnedModule, BoundToModel):
    """A mean-field :class:`~pyro.infer.autoguide.AutoGuide` for models with gates.

    Gate sites (prior :class:`~l0bayes.L0Prior`, :class:`~l0bayes.SpikeAndSlabPrior` or
    :class:`~l0bayes.HardConcrete`) get a :class:`~l0bayes.HardConcrete` each, with parameter ``log_alpha.<site>``.
    Other continuous sites get a plain ``Normal`` (``loc.<site>``, ``log_scale.<site>``; pushed through
    ``biject_to(support)`` where the support is constrained), so that analytic KLs apply; a probability with a ``Beta``
    prior gets a ``Beta`` (``log_concentration1.<site>``, ``log_concentration0.<site>``).

    A site with ``infer={"gate": site}`` in the model, such as the slab of a regression coefficient, is there only where
    that gate is open: its KL is weighted by P(z ≠ 0). Both are in plates, member by member; ``"gate_index"`` says which
    gate belongs to which member where they are not in one plate.

    Parameters exist from the start if the model can be traced without data: it offers ``sample_latents()``, takes no
    arguments, or ``args`` are given. Otherwise the first call creates them, as in Pyro; ``load_state_dict`` works
    before that. Copies have a copy of the model, and pickles none, see
    :class:`~l0bayes.inference.guide.bound_to_model.BoundToModel`.

    Args:
        model: a Pyro model.
        init_open: P(z ≠ 0) of every gate at the start, in (0, 1): a number, or a mapping from patterns of site
            names to numbers (the first match counts). Where none does: what :func:`~l0bayes.sparsify` was told, else
            0.8.
        others: ``"normal"``, or ``"point"`` for a point estimate of the sites that are not gates.
        init_scale: standard deviation of those normals at the start, > 0, in unconstrained space.
        init_loc_fn: where they start, see :mod:`pyro.infer.autoguide.initialization`.
        beta: temperature of the gates, > 0.
        gamma: lower end of their stretch, < 0.
        zeta: upper end of their stretch, > 1.
        args: arguments for tracing the model.
        kwargs: keyword arguments for tracing the model.
        create_plates: see :class:`~pyro.infer.autoguide.AutoGuide`.

    Raises:
        ValueError: if an argument is out of range or a pattern matches no gate site.
        StructureError: if the model has a discrete latent site, or site names that collide.
    """

    @checked
    def __init__(
        self,
        model: Callable[..., Any],
        *,
        init_open: float | Mapping[str, float] | None = None,
        others: Others = "normal",
        init_scale: float = 0.1,
        init_loc_fn: Callable[[Any], Tensor] = init_to_feasible,
        beta: float = 2 / 3,
        gamma: float = -0.1,
        zeta: float = 1.1,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        create_plates: Callable[..., Any] | None = None,
    ) -> None:
        BoundToModel.__init__(self, model, create_plates=create_plates)
        if others not in get_args(Others):
            raise ValueError(f"others must be one of {', '.join(get_args(Others))}; got {others!r}")
        if not init_scale > 0:
            raise ValueError(f"init_scale must be > 0; got {init_scale}")
        HardConcrete(0.0, beta, gamma, zeta, validate_args=True)
        self._stretch = (float(beta), float(gamma), float(zeta))
        everywhere = {} if init_open is None else {"*": init_open}
        self._init_open: dict[str, Any] = dict(init_open) if isinstance(init_open, Mapping) else everywhere
        for pattern, share in self._init_open.items():
            if not isinstance(share, (int, float)) or not 0 < share < 1:
                raise ValueError(f"init_open must be in (0, 1); got {share!r} for pattern {pattern!r}")
        self._others = others
        self._init_scale = init_scale
        self._init_loc_fn = init_loc_fn
        self._sites: dict[str, LatentSite] | None = None
        for kind in _KINDS:
            setattr(self, kind, nn.Module())
        self.claim_parameters()
        self._setup_if_possible(args, dict(kwargs or {}))

    # -- set-up ---------------------------------------------------------------------------------------------

    def _setup_if_possible(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        model = inspect.unwrap(self.model)
        known = getattr(self.model, "sample_latents", None) is not None
        # Arguments with defaults are usually data all the same: wait for the first call.
        without = not inspect.signature(getattr(model, "forward", model)).parameters
        if args or kwargs or known or without:
            self.trace_model(*args, **kwargs)

    def _initial_value(self, site: dict[str, Any]) -> Tensor:
        if is_gate(site["fn"]):
            return reference(site["fn"]).new_ones(site["fn"].shape())
        if site["fn"].support.is_discrete:
            raise StructureError(
                f"site {site['name']!r} is discrete ({type(unwrap(site['fn'])).__name__}); HardConcreteGuide covers "
                "gates and continuous sites. Give a gate L0Prior or SpikeAndSlabPrior as prior, or marginalise the site"
            )
        value: Tensor = self._init_loc_fn(site)
        return value

    def trace_model(self, *args: Any, **kwargs: Any) -> None:
        """Traces the model once, with every gate open, and creates the parameters that are not there yet."""
        model = self.model
        latents = getattr(model, "sample_latents", None) if not args and not kwargs else None
        traced = InitMessenger(self._initial_value)(latents or model)
        traced = poutine.block(traced, self.hides)
        with (
            one_thread("HardConcreteGuide"),
            pyro.get_param_store().scope(),
        ):  # a user's own modules must not meet in the global store here
            self.prototype_trace = poutine.block(poutine.trace(traced).get_trace)(*args, **kwargs)
        self.agree_with_list()
        sites = {}
        for name, site in self.prototype_trace.iter_stochastic_nodes():
            sites[name] = self._inspect(name, site)
            self.plate_frames.update({frame.name: frame for frame in site["cond_indep_stack"]})
        self._check_names(sites)
        check_slabs(sites, self.prototype_trace)
        wanted = {f"{kind}.{name}" for name, site in sites.items() for kind in site.family.kinds}
        loaded = {name for name, _ in self.named_parameters()}
        if loaded and loaded != wanted:
            raise StructureError(
                f"the loaded state belongs to another model: it lacks {sorted(wanted - loaded)} and has "
                f"{sorted(loaded - wanted)} besides"
            )
        for name, site in self.prototype_trace.iter_stochastic_nodes():
            value: Any = site["value"]
            family = sites[name].family
            for kind, start in zip(family.kinds, family.start(full_size(sites[name], value.detach())), strict=True):
                self._add_parameter(kind, name, start)
        self._sites = sites

    def _inspect(self, name: str, site: Any) -> LatentSite:
        fn = site["fn"]
        for frame in site["cond_indep_stack"]:
            if not frame.vectorized:
                raise StructureError(f"site {name!r} is in the sequential plate {frame.name!r}; use a vectorised one")
        gate, index = (site["infer"].get(key) for key in ("gate", "gate_index"))
        return LatentSite(name, fn.event_dim, tuple(site["cond_indep_stack"]), self._family(name, fn), gate, index)

    def _family(self, name: str, fn: Any) -> Family:
        if is_gate(fn):
            asked = {site: share for sparse in sparse_modules(self.model) for site, share in sparse.init_open.items()}
            matching = (p for key, p in self._init_open.items() if fnmatchcase(name, key))
            share = next(matching, asked.get(name, _INIT_OPEN))
            return GateFamily(fn.event_dim, self._stretch, share)
        if self._others == "point":
            return PointFamily(fn.event_dim, fn.support)
        base = unwrap(fn)
        if isinstance(base, dist.Beta):
            return BetaFamily(fn.event_dim, base.concentration1.detach(), base.concentration0.detach())
        return NormalFamily(fn.event_dim, fn.support, self._init_scale)

    def _check_names(self, sites: Mapping[str, LatentSite]) -> None:
        for name in sites:
            if any(hasattr(nn.Module(), part) for part in name.split(".")):
                raise StructureError(f"site name {name!r}: a part of it is an attribute of torch modules; rename it")
            for other in sites:
                if other.startswith(name + "."):
                    raise StructureError(f"site names {name!r} and {other!r} collide; rename one of them")
        gates = [name for name, site in sites.items() if isinstance(site.family, GateFamily)]
        for pattern in self._init_open:
            if pattern != "*" and not any(fnmatchcase(name, pattern) for name in gates):
                raise ValueError(f"init_open: the pattern {pattern!r} matches no gate site; gate sites are {gates}")

    def _add_parameter(self, kind: str, name: str, value: Tensor) -> None:
        existing = dict(self.child(kind).named_parameters()).get(name)
        if existing is None:
            _register(self.child(kind), name, nn.Parameter(value.clone()))
        elif existing.shape != value.shape:
            raise StructureError(
                f"parameter {kind}.{name} has shape {tuple(existing.shape)}, and the model's site has shape "
                f"{tuple(value.shape)}: the loaded state belongs to another model"
            )

    def before_loading(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        """Creates the parameters that the state has, where the model's sites are not known yet."""
        if self._sites is None:
            for key, value in state_dict.items():
                kind, _, name = key.removeprefix(prefix).partition(".")
                if key.startswith(prefix) and kind in _KINDS:
                    self._add_parameter(kind, name, torch.empty_like(value))

    def __getstate__(self) -> dict[str, Any]:
        for parameter in self.parameters():
            parameter.__dict__.pop("unconstrained", None)  # a weak reference of Pyro's, which cannot be pickled
        return super().__getstate__()

    # -- the variational distribution -----------------------------------------------------------------------

    def _set_up(self) -> Mapping[str, LatentSite]:
        if self._sites is None:
            raise RuntimeError(
                "the guide has not seen the model's sites yet. Call it once with a batch, guide(x, y), or construct "
                "it with HardConcreteGuide(model, args=(x, y))"
            )
        return self._sites

    def _parameters_of(self, site: LatentSite, indices: Mapping[str, Tensor] | None = None) -> Iterator[Tensor]:
        """A site's parameters; in a subsampled plate those of the members at ``indices``."""
        for kind in site.family.kinds:
            value: Tensor = self.parameter(f"{kind}.{site.name}")
            for frame in site.frames:
                index, dim = (indices or {}).get(frame.name), frame.dim - site.event_dim
                if index is None:
                    continue
                if len(index) != value.shape[dim] or self.create_plates is not None:
                    value = value.index_select(dim, index)
            yield value

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Draws every latent site.

        Args:
            args: arguments of the model.
            kwargs: keyword arguments of the model.

        Returns:
            Site name to draw.
        """
        if self._sites is None:
            self.trace_model(*args, **kwargs)
        for kind in _KINDS:
            self.announce(kind)
        plates = self.plates_for(*args, **kwargs) if self.plate_frames else {}
        draws: dict[str, Tensor] = {}
        distributions: dict[str, Any] = {}
        for name, site in self._set_up().items():
            with ExitStack() as stack:
                indices = {f.name: stack.enter_context(plates[f.name]) for f in site.frames}
                distributions[name] = site.family.distribution(*self._parameters_of(site, indices))
                if site.gate is not None:
                    # What is not there keeps its prior, and has no KL: paper, eq. 4 and appendix A.
                    there = distributions[site.gate].prob_nonzero
                    there = there if site.gate_index is None else there[..., site.gate_index]
                    stack.enter_context(poutine.scale(scale=there))
                draws[name] = pyro.sample(name, distributions[name])
        return draws

    @property
    def stretch(self) -> tuple[float, float, float]:
        """β, γ and ζ of the gates."""
        return self._stretch

    @property
    def in_one_vector(self) -> tuple[str, ...] | None:
        """Names of the latent sites, if all are known to be vectors of gates outside of plates; else ``None``."""
        if self._sites is None:
            return None
        gates = (isinstance(s.family, GateFamily) and s.event_dim == 1 and not s.frames for s in self._sites.values())
        return tuple(self._sites) if all(gates) else None

    def gate_vector(self) -> HardConcrete:
        """The gates of all sites, one after the other, as one distribution; see :attr:`in_one_vector`."""
        log_alphas: list[Tensor] = [self.parameter(f"log_alpha.{name}") for name in self._set_up()]
        return HardConcrete(torch.cat(log_alphas), *self._stretch, validate_args=False)

    def distributions(self) -> dict[str, Any]:
        """The guide's distribution at every latent site, by name."""
        return {name: site.family.distribution(*self._parameters_of(site)) for name, site in self._set_up().items()}

    def gates(self) -> dict[str, HardConcrete]:
        """The distribution of every gate, by site name, with the site's shape as ``batch_shape``."""
        return {
            name: site.family.gate(*self._parameters_of(site))
            for name, site in self._set_up().items()
            if isinstance(site.family, GateFamily)
        }

    @torch.no_grad()
    def point(self, rule: str = "paper") -> dict[str, Tensor]:
        """Test-time gate values by site name, see :meth:`~l0bayes.HardConcrete.point`.

        Groups of a sparse module keep their ``min_units``, see :func:`~l0bayes.sparsify`, alive, as far as the model
        is at hand: a guide that was pickled alone can only count them.
        """
        gates = self.gates()
        points = {name: gate.point(rule) for name, gate in gates.items()}  # type: ignore[arg-type]
        if self.lost_model:
            opened = {name: points[name] != 0 for name in self.least}
            log_odds = {name: gates[name].logit_nonzero for name in opened}
            return held_open(points, gates, opened, open_at_least(opened, log_odds, self.least))
        for sparse in sparse_modules(self.model):
            points = sparse.enforce_min_units(points, gates)
        return points

    @torch.no_grad()
    def means(self, sites: Iterable[str]) -> dict[str, Tensor]:
        """Posterior means of some sites, by name."""
        distributions = self.distributions()
        return {name: distributions[name].mean for name in sites}

    def resize_gates(self, name: str, size: int) -> nn.Parameter:
        """A new parameter, not yet filled, for so many gates of a site.

        Args:
            name: of the site.
            size: how many gates there are to be.
        """
        old = self.parameter(f"log_alpha.{name}")
        new = nn.Parameter(old.new_empty(size), requires_grad=old.requires_grad)
        _register(self.child("log_alpha"), name, new)
        return new

    def numbers(self) -> dict[str, Tensor]:
        """Site name to the numbers of its gates in the full network; sites whose gates are all there are left out."""
        return {name: units for name, units in self.units.items() if not torch.equal(units, torch.arange(len(units)))}

    @torch.no_grad()
    def quantiles(self, quantiles: Sequence[float] | Tensor, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # noqa: ARG002
        """Posterior quantiles of every latent site.

        Args:
            quantiles: probabilities in [0, 1].
            args: ignored, as in Pyro's guides.
            kwargs: ignored, as in Pyro's guides.

        Returns:
            Site name to a tensor of shape ``(len(quantiles), *site shape)``.
        """
        results = {}
        for name, site in self._set_up().items():
            parameters = list(self._parameters_of(site))
            levels = torch.as_tensor(quantiles, dtype=parameters[0].dtype, device=parameters[0].device)
            results[name] = site.family.quantile(levels.reshape(-1, *(1,) * parameters[0].dim()), *parameters)
        return results

    @torch.no_grad()
    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Posterior median of every latent site, by name; arguments are ignored, as in Pyro's guides."""
        return {name: values[0] for name, values in self.quantiles([0.5], *args, **kwargs).items()}


def _register(module: nn.Module, path: str, parameter: nn.Parameter) -> None:
    """Puts a parameter at a dotted path, without the Pyro statements that setting an attribute may make."""
    *parents, name = path.split(".")
    for parent in parents:
        if parent not in dict(module.named_children()):
            module.add_module(parent, nn.Module())
        module = module.get_submodule(parent)
    module.register_parameter(name, parameter)
