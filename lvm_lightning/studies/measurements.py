"""A trained model measured: log p(x) by every means at once, and the model looked at from all sides."""

import math
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Generator, Tensor
from torch.nn import Parameter

from lvm_lightning.data.loader import Batch
from lvm_lightning.densities import DiagonalGaussian, Proposal, StandardNormal
from lvm_lightning.densities.prior_proposal import PriorProposal
from lvm_lightning.evaluation import NATS, Quantity, annealing
from lvm_lightning.evaluation.diagnostics import active_units, mutual_information, signal_to_noise
from lvm_lightning.evaluation.rise import bounds_of, powers
from lvm_lightning.model import LatentVariableModel
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.objectives import elbo, iw_elbo
from lvm_lightning.studies.base import Study, Subject
from lvm_lightning.support import PositiveInt, Rows, UserError, generator_for
from lvm_lightning.support.argtypes import Repeats

TOGETHER = 250
"""Examples that are annealed together."""
PILOT_CHAINS = 4
"""Chains of the run that finds the step sizes."""
BATCH = 100
"""Images that a diagnosis looks at together."""


@dataclass
class Anneal(Study):
    """Measure log p(x) by quadrature, importance sampling and annealing, and sandwich it on simulated data.

    On evenly spaced test images: log p(x), exact for K ≤ 2, L_S for S = 1, 10, … and annealed. On images that the
    model made itself: bounds from both sides (bidirectional Monte Carlo). Writes ``annealing.json``.

    Args:
        images: test images to average over, evenly spaced.
        simulated: images simulated from the model for the sandwich, at most ``images``.
        start: where chains start, ``prior`` or ``encoder``.
        steps: number of temperatures.
        chains: chains an image.
        leapfrog: leapfrog steps between two temperatures.
        importance_samples: largest number of samples of the importance-weighted bounds.
    """

    images: PositiveInt = 100
    simulated: PositiveInt = 100
    start: Literal["prior", "encoder"] = "prior"
    steps: PositiveInt = 500
    chains: PositiveInt = 16
    leapfrog: PositiveInt = 5
    importance_samples: PositiveInt = 10_000

    def run(self, subject: Subject) -> str:
        """Measure it.

        Raises:
            UserError: if the chains shall start from an encoder and the model has none.
        """
        subject.module.requires_grad_(False)
        x = subject.rows("test", self.images)
        exact = subject.log_marginal(x)
        quantities = [] if exact is None else [subject.quantity("log p(x), exact", exact, "exact", 0)]
        quantities += self._importance_weighted(subject, x)
        quantities += self._annealed(subject, x, exact)
        quantities += self._sandwich(subject, x[: self.simulated])
        return subject.write("annealing.json", quantities)

    def _importance_weighted(self, subject: Subject, x: Tensor) -> list[Quantity]:
        """L_S for S = 1, 10, 100, … ≤ ``importance_samples``, from groups of the same draws."""
        largest = powers(10, self.importance_samples)[-1]
        rows = max(1, min(50, 10_000_000 // self.importance_samples))
        parts = subject.parts(x, rows, "tightness", "importance sampling")
        found = [bounds_of(subject.log_weights(part, largest, noise).double(), 10) for part, noise in parts]
        bounds = {N: torch.cat([part[N] for part in found]) for N in found[0]}
        return [subject.quantity(f"importance-weighted bound L_{N}", b, "lower bound", N) for N, b in bounds.items()]

    def _annealed(self, subject: Subject, x: Tensor, exact: Tensor | None) -> list[Quantity]:
        """The annealed lower bound, and its distance from log p(x) where that is exact."""
        parts = subject.parts(x, TOGETHER, "annealing", "annealing")
        bound = torch.cat([self.bounds(subject.module, part, generator)[0] for part, generator in parts])
        name = f"annealed from the {self.start}: {self.steps:,} temperatures, {self.chains} chains"
        found = [subject.quantity(name, bound, "lower bound", self.chains)]
        if exact is not None:
            gap = exact - bound
            found.append(subject.quantity("log p(x) − annealed", gap, "stochastic estimate", self.chains, unit=NATS))
        return found

    def _sandwich(self, subject: Subject, like: Tensor) -> list[Quantity]:
        """Bounds from both sides on log p(x) of images that the model made itself."""
        found = []
        for part, g in subject.parts(like, TOGETHER, "simulation", "sandwich on simulated data"):
            x, z = subject.model.simulate(part, g)
            found.append(self.bounds(subject.module, x, g, z))
        low, high = (torch.cat(bounds) for bounds in zip(*found, strict=True))
        C, made = self.chains, "simulated"
        return [
            subject.quantity("simulated data: annealed forwards", low, "lower bound", C, made),
            subject.quantity("simulated data: annealed backwards", high, "upper bound", C, made),
            subject.quantity("width of the sandwich", high - low, "stochastic estimate", C, made, NATS),
        ]

    def bounds(
        self, module: LatentVariableModule, x: Tensor, generator: Generator, posterior_sample: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Annealed lower bounds on log p(x) ``(B,)``, and upper ones where there is a posterior sample ``(B, K)``.

        Raises:
            UserError: if the chains shall start from an encoder and the model has none.
        """
        model = module.model
        q = PriorProposal(model.prior, x) if self.start == "prior" else module.propose(x)
        if self.start == "encoder" and isinstance(q, PriorProposal):
            name = type(module).__name__
            raise UserError(f"start: {name} has no encoder to anneal from, got {self.start}; use --start prior")

        def log_ratio(z: Tensor) -> Tensor:
            log_lik, log_prior = model.log_joint(x, z)
            return log_lik + (log_prior - q.stopped_log_prob(z))

        path = annealing.Path(q.stopped_log_prob, log_ratio, annealing.sigmoid_schedule(self.steps), self.leapfrog)
        pilot = starting_points(model, q, x, min(self.chains, PILOT_CHAINS), generator)
        tuned = annealing.tune(path, pilot, generator)
        z = starting_points(model, q, x, self.chains, generator)
        lower = annealing.lower_bound(annealing.forward(path, z, tuned, generator))
        if posterior_sample is None:
            return (lower,)
        exact = posterior_sample.expand(self.chains, *posterior_sample.shape)
        return lower, annealing.upper_bound(annealing.backward(path, exact, tuned, generator))


def starting_points(model: LatentVariableModel, q: Proposal, x: Tensor, chains: int, g: Generator) -> Tensor:
    """z ~ p₀, ``(C, B, K)``."""
    if isinstance(q, PriorProposal):
        return model.prior.sample(chains * len(x), g).view(chains, len(x), -1)
    return torch.cat([drawn.z for drawn in q.draws(chains, Rows(0, len(x)), g, TOGETHER * chains)]).detach()


class Diagnose(Study):
    """Bounds on train, validation and test side by side, what the latents do, and how noisy the gradient is.

    Writes ``diagnosis.json``.

    Args:
        images: images of each split to average over, evenly spaced.
        samples: samples of the importance-weighted bound.
        gradient_repeats: gradients that the signal-to-noise ratio is measured with; 0 leaves it out.
    """

    def __init__(self, images: PositiveInt = 1000, samples: PositiveInt = 500, gradient_repeats: Repeats = 0) -> None:
        self.images, self.samples, self.gradient_repeats = images, samples, gradient_repeats

    def run(self, subject: Subject) -> str:
        """Measure it."""
        rows = {split: subject.rows(split, self.images) for split in ("train", "val", "test")}
        quantities = [q for split, x in rows.items() for q in self._bounds(subject, x, split)]
        quantities += latents_of(subject, rows["test"])
        if self.gradient_repeats:
            first = rows["train"][:BATCH]
            quantities += gradients_of(subject.module, first, self.gradient_repeats, subject.seed)
        return subject.write("diagnosis.json", quantities)

    def _bounds(self, subject: Subject, x: Tensor, split: str) -> list[Quantity]:
        """ELBO and L_S of a split, and log p(x) where it is exact."""
        parts = subject.parts(x, BATCH, "diagnosis")
        weights = (subject.log_weights(part, self.samples, generator) for part, generator in parts)
        bounds = [(elbo(log_w), iw_elbo(log_w.double())) for log_w in weights]
        lower, tight = (torch.cat(values) for values in zip(*bounds, strict=True))
        exact = subject.log_marginal(x)
        found = [
            subject.quantity(f"{split}: ELBO", lower, "lower bound", self.samples, split),
            subject.quantity(f"{split}: log p(x) ≥ L_{self.samples}", tight, "lower bound", self.samples, split),
        ]
        if exact is not None:
            found.append(subject.quantity(f"{split}: log p(x)", exact, "exact", self.samples, split))
        return found


def latents_of(subject: Subject, x: Tensor) -> list[Quantity]:
    """Active units, the KL and its split into mutual information and the aggregate's, and of each dimension."""
    with torch.inference_mode():
        q = subject.module.propose(x)
        if not isinstance(q, DiagonalGaussian):
            return []
        (drawn,) = q.draws(1, Rows(0, len(x)), generator_for(subject.seed, "diagnosis", 0), len(x))
        z, log_q = drawn.z.squeeze(0), drawn.log_q.squeeze(0)
        information = mutual_information(z, log_q, q.mean, q.log_sigma)
        kl = log_q.double() - subject.model.prior.log_prob(z).double()
        each = q.kl_per_dimension()
    active, (n, K) = active_units(q.mean), q.mean.shape

    def estimate(name: str, values: Tensor) -> Quantity:
        return subject.quantity(name, values, "stochastic estimate", 1, unit=NATS)

    found = [
        Quantity("active units", active, 0.0, f"of {K} latent dimensions", "exact", "test", 0, n),
        estimate("KL(q(z|x) ‖ p(z))", kl),
        estimate(f"I_q(x; z), at most log {n:,} = {math.log(n):.2f}", information),
        estimate("KL(q(z) ‖ p(z)), of the aggregate posterior", kl - information),
    ]
    if isinstance(subject.model.prior, StandardNormal):  # of another prior a single dimension's KL has no closed form
        for k in each.mean(0).argsort(descending=True).tolist()[: max(active, 1)]:
            found.append(subject.quantity(f"KL of z_{k + 1}", each[:, k], "exact", 0, unit=NATS))
    return found


def gradients_of(module: LatentVariableModule, x: Tensor, repeats: int, seed: int) -> list[Quantity]:
    """Signal-to-noise ratio of the training gradient of each part of the model, on one batch."""

    def loss(repeat: int) -> Tensor:
        module.noise_seed = seed + repeat  # noise of its own for every repeat
        return cast(dict[str, Tensor], module.training_step(Batch.of(x), 0))["loss"]

    groups: dict[str, list[Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(name.removeprefix("model.").split(".")[0], []).append(parameter)
    try:
        ratios = signal_to_noise(loss, groups, repeats)
    finally:
        module.noise_seed = None
    label, unit = "signal-to-noise of the gradient", "|mean|/standard deviation"
    return [  # the spread of these ratios is not estimated
        Quantity(f"{label}: {name}", r, math.nan, unit, "stochastic estimate", "train", module.samples, len(x))
        for name, r in ratios.items()
    ]
