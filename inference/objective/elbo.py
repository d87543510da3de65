"""An ELBO that computes only what it needs: exact KLs and the likelihood."""

from collections.abc import Iterator
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer.util import is_validation_enabled, torch_item
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites, site_is_subsample
from pyro.util import check_model_guide_match, check_site_shape, warn_if_nan
from torch import Tensor
from torch.distributions import kl_divergence

from l0bayes.arguments import checked
from l0bayes.compat import HookedELBO, check_mean_field
from l0bayes.inference.objective.antithetic import Antithetic
from l0bayes.inference.objective.direct import direct_loss
from l0bayes.owned_module import parameters_unheard


class ClosedFormKL_ELBO(HookedELBO):  # noqa: N801 (named as Pyro names its ELBOs)
    """:class:`~pyro.infer.TraceMeanField_ELBO` without what a closed-form KL makes superfluous.

    Pyro's own computes ``log_prob`` of every latent site in model and guide, and falls back to a Monte Carlo KL
    where none is registered. This one computes observed sites and KLs, and where a KL is missing it says so. Where
    both apply they agree exactly: same draws, same loss, same gradients.

    Model and guide must factorise over sites (mean field), as for Pyro's.

    Args:
        num_particles: runs of model and guide a step, to average over.
        antithetic: whether to draw them in pairs, see :class:`~l0bayes.inference.objective.antithetic.Antithetic`.
        options: further options of :class:`~pyro.infer.ELBO`.

    Raises:
        ValueError: if ``antithetic`` is asked for with an odd number of particles, or with vectorised ones.
        NotImplementedError: if a latent site has no registered KL or a guide that is not reparameterised, or the guide
            has auxiliary sites.
    """

    @checked
    def __init__(self, num_particles: int = 1, *, antithetic: bool = False, **options: Any) -> None:
        if antithetic and (num_particles % 2 or options.get("vectorize_particles")):
            raise ValueError(
                f"antithetic draws come in pairs: num_particles must be even, and vectorize_particles off; got "
                f"{num_particles} and {options.get('vectorize_particles', False)}"
            )
        parent: Any = super()
        parent.__init__(num_particles=num_particles, **options)
        self._antithetic = antithetic
        self._checked_sites: tuple[tuple[str, ...], tuple[str, ...]] | None = None

    @property
    def draws_apart(self) -> int:
        """Particles, if they are drawn one after the other and know nothing of each other; else 0.

        A subclass may have a way of its own to draw, or to make an ELBO of what was drawn.
        """
        together = self._antithetic or self.vectorize_particles or type(self) is not ClosedFormKL_ELBO
        return 0 if together else int(self.num_particles)

    def traces(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Iterator[tuple[Trace, Trace]]:
        """Traces of model and guide for each particle, in pairs if they are antithetic."""
        if not self._antithetic:
            yield from super().traces(model, guide, args, kwargs)
            return
        for _ in range(self.num_particles // 2):
            pair = Antithetic()
            for _ in range(2):
                yield self.trace_pair(model, pair(guide), args, kwargs)

    def trace_pair(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        """Traces of model and guide, without the log-densities of their sites."""
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
        pruned = prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)
        sites = (tuple(model_trace.nodes), tuple(guide_trace.nodes))
        if sites != self._checked_sites:  # once for each structure: it costs as much as a small network
            _check_sites(model_trace, guide_trace)
            if is_validation_enabled():
                check_model_guide_match(model_trace, guide_trace, self.max_plate_nesting)
                check_mean_field(*pruned)
            self._checked_sites = sites
        return pruned

    def particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[float, Tensor]:
        """The negative ELBO of one particle, as a number and as a tensor to differentiate."""
        elbo = _elbo(model_trace, guide_trace, self.max_plate_nesting)
        return -torch_item(elbo), -elbo

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The negative ELBO in nats, averaged over particles; its gradient is the estimate to train with."""
        loss = None if kwargs else direct_loss(model, guide, args, particles=self.draws_apart)
        if loss is None:
            with parameters_unheard():  # autograd finds them; loss_and_grads, for SVI, needs them announced
                traces = self.traces(model, guide, args, kwargs)
                elbos = [_elbo(of_model, of_guide, self.max_plate_nesting) for of_model, of_guide in traces]
            loss = -torch.stack(elbos).sum() / int(self.num_particles)  # vectorised particles are one trace
        warn_if_nan(loss, "loss")
        return loss


def _check_sites(model_trace: Trace, guide_trace: Trace) -> None:
    latent = {n for n, s in model_trace.nodes.items() if s["type"] == "sample" and not s["is_observed"]}
    drawn = {n for n, s in guide_trace.nodes.items() if s["type"] == "sample"}
    plates = {n for n, s in {**model_trace.nodes, **guide_trace.nodes}.items() if site_is_subsample(s)}
    if missing := sorted(latent - drawn - plates):
        raise RuntimeError(
            f"site {missing[0]!r} is latent in the model and missing in the guide; a HardConcreteGuide finds all sites "
            "if it is constructed with args=(x, y)"
        )
    if extra := sorted(drawn - set(model_trace.nodes) - plates):
        raise NotImplementedError(
            f"the guide's sites {extra} are not in the model; auxiliary sites need TraceMeanField_ELBO"
        )


def _elbo(model_trace: Trace, guide_trace: Trace, max_plate_nesting: Any) -> Tensor:
    elbo = torch.zeros(())
    for name, site in model_trace.nodes.items():
        if site["type"] != "sample":
            continue
        if site["is_observed"]:
            fn: Any = site["fn"]
            log_prob = fn.log_prob(site["value"], *site["args"], **site["kwargs"])
            scaled: Tensor = scale_and_mask(log_prob, site["scale"], site["mask"])
            if is_validation_enabled():
                check_site_shape({**site, "log_prob": scaled}, max_plate_nesting)
            elbo = elbo + scaled.sum()
        else:
            elbo = elbo - _kl(name, site, guide_trace.nodes[name])
    return elbo


def _kl(name: str, model_site: Any, guide_site: Any) -> Tensor | float:
    """KL of one site, with the guide's scale and mask, as TraceMeanField_ELBO takes them."""
    if not guide_site["fn"].has_rsample:
        raise NotImplementedError(
            f"site {name!r}: its guide, {type(guide_site['fn']).__name__}, is not reparameterised, and this ELBO has "
            "no score-function term. Use a reparameterised guide, or Trace_ELBO for a model without gates"
        )
    try:
        kl = kl_divergence(guide_site["fn"], model_site["fn"])
    except NotImplementedError as error:
        raise NotImplementedError(
            f"site {name!r}: {str(error) or 'no KL is registered'}. Use TraceMeanField_ELBO, which estimates a missing "
            "KL of a continuous site by Monte Carlo, or register one with torch.distributions.register_kl"
        ) from error
    if isinstance(kl, Tensor) and kl.shape != guide_site["fn"].batch_shape:
        raise ValueError(
            f"site {name!r}: the KL has shape {tuple(kl.shape)}, the guide batch_shape "
            f"{tuple(guide_site['fn'].batch_shape)}; use the same .to_event in model and guide"
        )
    kl = scale_and_mask(kl, guide_site["scale"], guide_site["mask"])
    return kl.sum() if isinstance(kl, Tensor) else kl * guide_site["fn"].batch_shape.numel()
