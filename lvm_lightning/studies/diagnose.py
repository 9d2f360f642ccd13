"""A trained model looked at from all sides: bounds on each split, latents, gradients."""

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.nn import Parameter

from lvm_lightning.data.loader import Batch
from lvm_lightning.densities import DiagonalGaussian, StandardNormal
from lvm_lightning.evaluation import NATS, Quantity
from lvm_lightning.evaluation.diagnostics import active_units, mutual_information, signal_to_noise
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.objectives import elbo, iw_elbo
from lvm_lightning.studies.base import Study, Subject
from lvm_lightning.support import PositiveInt, Rows, generator_for
from lvm_lightning.support.argtypes import Repeats

BATCH = 100
"""Images that a diagnosis looks at together."""


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
            with subject.bar("gradients", total=self.gradient_repeats) as bar:
                quantities += gradients_of(subject.module, first, self.gradient_repeats, subject.seed, bar.update)
        return subject.write("diagnosis.json", quantities)

    def _bounds(self, subject: Subject, x: Tensor, split: str) -> list[Quantity]:
        """ELBO and L_S of a split, and log p(x) where it is exact."""
        parts = subject.parts(x, BATCH, "diagnosis", f"diagnose {split}")
        weights = (subject.log_weights(part, self.samples, generator) for part, generator in parts)
        bounds = [(elbo(log_w), iw_elbo(log_w.double())) for log_w in weights]
        lower, tight = (torch.cat(values) for values in zip(*bounds, strict=True))
        return [
            subject.quantity(f"{split}: ELBO", lower, "lower bound", self.samples, split),
            subject.quantity(f"{split}: log p(x) ≥ L_{self.samples}", tight, "lower bound", self.samples, split),
            *subject.exact(f"{split}: log p(x)", *subject.log_marginal(x), split),
        ]


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


def gradients_of(
    module: LatentVariableModule, x: Tensor, repeats: int, seed: int, tick: Callable[[], object] = lambda: None
) -> list[Quantity]:
    """Signal-to-noise ratio of the training gradient of each part of the model, on one batch; a tick each repeat."""

    def loss(repeat: int) -> Tensor:
        tick()
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
    label, unit, images = "signal-to-noise of the gradient", "|mean|/standard deviation", module.IMAGES or len(x)
    return [  # the spread of these ratios is not estimated
        Quantity(f"{label}: {name}", r, math.nan, unit, "stochastic estimate", "train", module.samples, images)
        for name, r in ratios.items()
    ]
