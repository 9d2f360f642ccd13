"""log p(x) of a trained model by every means at once: quadrature, importance sampling, annealing; a sandwich."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from lvm_lightning.densities import PriorProposal
from lvm_lightning.evaluation import NATS, Quantity, annealing
from lvm_lightning.evaluation.rise import bounds_of, powers
from lvm_lightning.evaluation.starts import from_fit, from_proposal
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.studies.base import SIMULATED, Study, Subject
from lvm_lightning.support import PositiveInt, UserError

TOGETHER = 250
"""Examples that are annealed together."""
PILOT_CHAINS = 4
"""Chains of the run that finds the step sizes."""


@dataclass
class Anneal(Study):
    """Measure log p(x) by quadrature, importance sampling and annealing, and sandwich it on simulated data.

    On evenly spaced test images: log p(x), exact for K ≤ 2, L_S for S = 1, 10, … and annealed. On images that the
    model made itself: bounds from both sides (bidirectional Monte Carlo). Writes ``annealing.json``.

    Args:
        images: test images to average over, evenly spaced.
        simulated: images simulated from the model for the sandwich, at most ``images``.
        start: where chains start: ``prior``, ``encoder``, or ``fitted``, the Gaussian that is closest to each p(z|x).
        steps: number of temperatures.
        chains: chains an image.
        leapfrog: leapfrog steps between two temperatures.
        importance_samples: largest number of samples of the importance-weighted bounds.
    """

    images: PositiveInt = 100
    simulated: PositiveInt = 100
    start: Literal["prior", "encoder", "fitted"] = "prior"
    steps: PositiveInt = 500
    chains: PositiveInt = 16
    leapfrog: PositiveInt = 5
    importance_samples: PositiveInt = 10_000

    def run(self, subject: Subject) -> str:
        """Measure it.

        Raises:
            UserError: if the chains shall start from where an encoder says and the model has none, or if its latent
                takes only some values, between which no chain can move.
        """
        subject.module.requires_grad_(False)
        if not subject.model.prior.continuous:
            raise UserError(
                f"model: chains need a prior with a density, got {type(subject.module).__name__}, whose latent takes "
                "finitely many values; use 'test', which is exact"
            )
        x = subject.rows("test", self.images)
        if self.start != "prior" and isinstance(subject.module.propose(x[:1]), PriorProposal):
            name = type(subject.module).__name__
            raise UserError(f"start: {name} has no encoder to anneal from, got {self.start}; use --start prior")
        exact, error = subject.log_marginal(x)
        quantities = subject.exact("log p(x), exact", exact, error)
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
        parts = subject.parts(x, TOGETHER, "annealing")
        with subject.bar("annealing", total=self.transitions(len(x), runs=1)) as bar:
            found = [self.bounds(subject.module, part, generator, tick=bar.update)[0] for part, generator in parts]
        bound = torch.cat(found)
        name = f"annealed from the {self.start}: {self.steps:,} temperatures, {self.chains} chains"
        quantities = [subject.quantity(name, bound, "lower bound", self.chains)]
        if exact is not None:
            label, gap = "log p(x) − annealed", exact - bound
            quantities.append(subject.quantity(label, gap, "stochastic estimate", self.chains, unit=NATS))
        return quantities

    def _sandwich(self, subject: Subject, like: Tensor) -> list[Quantity]:
        """Bounds from both sides on log p(x) of images that the model made itself."""
        found = []
        with subject.bar("sandwich", total=self.transitions(len(like), runs=2)) as bar:
            for part, g in subject.parts(like, TOGETHER, "simulation"):
                x, z = subject.model.simulate(part, g)
                found.append(self.bounds(subject.module, x, g, z, bar.update))
        low, high = (torch.cat(bounds) for bounds in zip(*found, strict=True))
        C, made = self.chains, SIMULATED
        return [
            subject.quantity("simulated data: annealed forwards", low, "lower bound", C, made),
            subject.quantity("simulated data: annealed backwards", high, "upper bound", C, made),
            subject.quantity("width of the sandwich", high - low, "stochastic estimate", C, made, NATS),
        ]

    def transitions(self, examples: int, runs: int) -> int:
        """Transitions of all chains: of the pilots, at each temperature, and of the runs, between them."""
        pilots = self.steps * min(self.chains, PILOT_CHAINS)
        return math.ceil(examples / TOGETHER) * (pilots + runs * (self.steps - 1) * self.chains)

    def bounds(
        self,
        module: LatentVariableModule,
        x: Tensor,
        generator: Generator,
        posterior_sample: Tensor | None = None,
        tick: Callable[[int], object] = lambda chains: None,
    ) -> tuple[Tensor, ...]:
        """Annealed lower bounds on log p(x) ``(B,)``, and upper ones where there is a posterior sample ``(B, K)``."""
        q = PriorProposal(module.model.prior, x) if self.start == "prior" else module.propose(x)
        start = (from_fit if self.start == "fitted" else from_proposal)(module.model, x, q, generator)

        def log_ratio(u: Tensor) -> Tensor:
            return start.log_joint(u) - start.log_base(u)

        path = annealing.Path(start.log_base, log_ratio, annealing.sigmoid_schedule(self.steps), self.leapfrog, tick)
        tuned = annealing.tune(path, start.draw(min(self.chains, PILOT_CHAINS)), generator)
        lower = annealing.lower_bound(annealing.forward(path, start.draw(self.chains), tuned, generator))
        if posterior_sample is None:
            return (lower,)
        exact = start.coordinates(posterior_sample).expand(self.chains, *posterior_sample.shape)
        return lower, annealing.upper_bound(annealing.backward(path, exact, tuned, generator))
