"""The model without an encoder: its proposal is the prior."""

import math
from collections.abc import Callable
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.quasirandom import SobolEngine
from torchmetrics.aggregation import CatMetric

from lvm_lightning.data.loader import Batch
from lvm_lightning.densities.likelihoods import Bernoulli
from lvm_lightning.densities.points import UNIFORM, Points
from lvm_lightning.densities.priors import StandardNormal
from lvm_lightning.evaluation.fitted import FittedProposals
from lvm_lightning.evaluation.importance import WeightChecks
from lvm_lightning.evaluation.quadrature import Quadrature
from lvm_lightning.evaluation.quantity import Kind, Quantity
from lvm_lightning.modules.base import (
    DECODED_ROWS,
    QUADRATURE_ERROR,
    TEST_ROWS,
    LatentVariableModule,
    LRSchedulerCallable,
    OptimizerCallable,
)
from lvm_lightning.networks import MLP
from lvm_lightning.objectives.bounds import iw_elbo, nested_iw_elbo
from lvm_lightning.support.argtypes import PositiveFloat, PositiveInt
from lvm_lightning.support.portions import mean_in_portions
from lvm_lightning.support.randomness import Purpose

DecoderCallable = Callable[[int, int], nn.Module]
OutputBias = Literal["logit", "log", "zero"]

PILOTS = 2**14
"""Prior points from which the proposals of a test are fitted."""
SHARED_FROM, SHARED_BY = 1024, 50
"""Draws that are so many hide that neighbouring images share them, and cost a decoding each only once; in a test so
many images share them."""


class PriorIWAE(LatentVariableModule):
    """Latent-variable model trained on the importance-weighted bound with the prior as proposal.

        log p(x) ≥ E[ 1/J Σ_j log 1/N Σ_n p(x|z_{j,n}) ],   z_{j,n} ~ p(z) = N(0, I_K)

    The log-weights are log p(x|z) + (log p(z) − log p(z)) = log p(x|z). J = 1 is the prior-IWAE, N = 1 the
    Jensen bound, whose gap KL(p(z) ‖ p(z|x)) training drives to 0: the decoder learns to ignore z.

    Args:
        latent_dim: number K of latent dimensions.
        outer_samples: J, the number of bounds that are averaged.
        inner_samples: N, the number of samples inside the logarithm.
        points: ``iid``, or ``sobol`` for a freshly scrambled Sobol set each step; either way a lower bound.
        share_points: whether the batch shares its points. Each example's bound has the same expectation either
            way; shared, the decoder runs on J·N points instead of B·J·N, and all pairs take one matrix product.
        output_bias: where the output bias starts: ``logit`` of the training images' pixel means, their ``log``
            (the teaching source's choice), or ``zero``.
        decoder: (K, D) → network z ``(*, K)`` → logits ``(*, D)``.
        quadrature_spacing: distance of the grid points that ``test`` measures log p(x) with where K = 2. A sharper
            posterior needs a finer grid; the grid's error stands beside the value.
        test_samples: S of the importance-weighted bound L_S that ``test`` measures log p(x) with where K > 2, with
            proposals that are fitted to each image.
        data_dim: number D of pixels.
        optimizer: parameters → optimiser.
        lr_scheduler: optimiser → learning-rate schedule, stepped once a training step; none keeps the rate.

    Raises:
        ValueError: if there is no sample (J·N < 1), or the data are not binary.

    Reference:
        Burda et al., Importance Weighted Autoencoders, 2016, eq. 8, with q(z|x) = p(z).
    """

    prior: StandardNormal

    def __init__(
        self,
        latent_dim: PositiveInt = 2,
        outer_samples: PositiveInt = 1,
        inner_samples: PositiveInt = 128,
        points: Points = "sobol",
        share_points: bool = True,
        output_bias: OutputBias = "logit",
        decoder: DecoderCallable = MLP,
        quadrature_spacing: PositiveFloat = 0.05,
        test_samples: PositiveInt = 5000,
        data_dim: PositiveInt = 784,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.Adam(parameters, lr=1e-3, fused=True),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(optimizer, lr_scheduler)
        for name, samples in [("outer_samples", outer_samples), ("inner_samples", inner_samples)]:
            if samples < 1:
                raise ValueError(f"model.{name}: must be at least 1, got {samples}; a bound needs a sample")
        self.require_callables(decoder=decoder)
        if points == "sobol" and latent_dim > SobolEngine.MAXDIM:
            raise ValueError(
                f"model.latent_dim: Sobol points have at most {SobolEngine.MAXDIM:,} dimensions, got {latent_dim:,}; "
                "set model.points to iid"
            )
        self.save_hyperparameters()
        self.forget_callables()
        self.J, self.N = outer_samples, inner_samples
        self.points, self.share_points, self.output_bias = points, share_points, output_bias
        self.quadrature_spacing, self.test_samples = quadrature_spacing, test_samples
        self.prior = StandardNormal(latent_dim)
        self.likelihood = Bernoulli()
        self.decoder = decoder(latent_dim, data_dim)
        self.test_values = CatMetric(nan_strategy="error")
        self._quadrature: Quadrature | None = None
        self._fitted: FittedProposals | None = None
        self._reference_logits: Tensor | None = None

    @property
    def samples(self) -> int:
        """J·N."""
        return self.J * self.N

    def setup(self, stage: str) -> None:
        """Check the data, and start the output bias from the training images' pixel means."""
        super().setup(stage)
        if stage == "fit" and self.output_bias != "zero":
            start = self.likelihood.parameters_of_mean if self.output_bias == "logit" else _log
            self.start_output_bias(self.output_bias, start)

    def log_weights(self, x: Tensor, z: Tensor) -> Tensor:
        """log w = log p(x|z): x ``(B, D)``, z ``(*S, B, K)`` or shared ``(*S, 1, K)`` → ``(*S, B)``, nats."""
        return self.log_likelihood(x, z)

    def draw_log_weights(self, batch: Batch, samples: int, generator: torch.Generator) -> Tensor:
        """log p(x|z) at S i.i.d. prior draws, ``(S, B)``; from 1,024 draws on, the images of the batch share them."""
        if samples >= SHARED_FROM:
            z = self._prior_points("iid", samples, 1, generator)
            return torch.cat([self._evaluate(batch.x, points) for points in z.split(DECODED_ROWS)])
        z = self._prior_points("iid", samples, batch.total, generator)
        return self._evaluate(batch.x, z[:, batch.start : batch.start + len(batch.x)])

    def training_points(self, batch: Batch, purpose: Purpose, step: int) -> Tensor:
        """z ~ p(z) for the training bound, ``(J, N, B, K)`` or shared ``(J, N, 1, K)``."""
        generator = self.noise(purpose, step)
        if not self.share_points:
            return self._own_points(self.points, batch, generator)
        return self._prior_points(self.points, self.samples, 1, generator).view(self.J, self.N, 1, -1)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One step up the bound: mean over J of the N-sample log-mean-exp of p(x|z), z ~ p(z)."""
        z = self.training_points(batch, "train", self.global_step)
        if self.share_points:
            return self.maximise(*self._objective(z, batch.x))
        return self.maximise(*mean_in_portions(self._objective, [z, batch.x], [*self.parameters()], self.samples))

    def _objective(self, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is raised and what is reported, ``(B,)``: z ``(J, N, B, K)`` or shared ``(J, N, 1, K)``."""
        bound = nested_iw_elbo(self.log_weights(x, z))
        return bound, bound.detach()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The training bound on held-out images, with the same points at every validation."""
        z = self.training_points(batch, "val", batch_idx)
        self.keep_bound(nested_iw_elbo(self._evaluate(batch.x, z)), batch_idx)

    def on_test_start(self) -> None:
        """Decode the grid or the pilot points, once for all batches, and take the training images' pixel means."""
        pixel_mean = self._of_data("pixel_mean", None)
        if pixel_mean is not None:
            self._reference_logits = self.likelihood.parameters_of_mean(pixel_mean()).unsqueeze(0).to(self.device)
        self._quadrature = self.quadrature()
        if self._quadrature is None:
            pilots = self._prior_points("sobol", PILOTS, 1, self.noise("pilots", 0)).squeeze(1)
            with self.full_precision():
                self._fitted = FittedProposals(
                    self.decode, self.likelihood.log_prob, self.likelihood.information, pilots
                )

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """The trained bound with i.i.d. points for each image; log p(x) by quadrature, or for K > 2 a close bound."""
        self.test_values.update(self.remembered(batch_idx, lambda: self._measure(batch, batch_idx)))

    def _measure(self, batch: Batch, batch_idx: int) -> Tensor:
        """A column for each of :meth:`_columns`, ``(B, columns)``, float64."""
        values = [nested_iw_elbo(self._test_log_weights(batch, self.noise("test", batch_idx)))]
        with self.full_precision():
            if self._quadrature is not None:
                values += self._quadrature.measure(batch.x)
            if self._fitted is not None:
                parts = [
                    self._fitted_log_weights(self._fitted, group, self.noise("fitted", (batch_idx << 32) + first))
                    for first, group in batch.groups(TEST_ROWS)
                ]
                log_w = torch.cat(parts, -1)
                values.append(iw_elbo(log_w.double()))
                values += WeightChecks(self.test_samples).measure(log_w)
            if self._reference_logits is not None:
                values.append(self.likelihood.log_prob(self._reference_logits, batch.x))
        return torch.stack([value.double() for value in values], -1)

    def _test_log_weights(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """log w at i.i.d. points, ``(J, N, B)``: each image's own, or from 1,024 on each fiftieth image's new ones."""
        if self.samples < SHARED_FROM:
            return self._evaluate(batch.x, self._own_points("iid", batch, generator))
        groups = -(-batch.total // SHARED_BY)
        z = self._prior_points("iid", self.samples, groups, generator).view(self.J, self.N, groups, -1)
        group = (batch.start + torch.arange(len(batch.x))) // SHARED_BY  # of the global batch, whoever holds the rows
        parts = batch.x.split(group.unique_consecutive(return_counts=True)[1].tolist() or [0])
        first = int(group[0]) if len(group) else 0
        return torch.cat([self._evaluate(x, z[:, :, g : g + 1]) for g, x in enumerate(parts, first)], dim=-1)

    def _fitted_log_weights(self, fitted: FittedProposals, batch: Batch, generator: torch.Generator) -> Tensor:
        """log p(x, z) − log q(z|x), z ~ q(z|x) that is fitted to each image, ``(S, B)``, nats."""
        S, rows = self.test_samples, slice(batch.start, batch.start + len(batch.x))
        noise = torch.randn(S, batch.total, self.prior.dim, generator=generator)[:, rows].to(batch.x)
        uniform = torch.rand(S, batch.total, generator=generator)[:, rows].to(batch.x)
        q, parts = fitted(batch.x), max(1, DECODED_ROWS // batch.total)
        log_w = torch.empty_like(uniform)
        for out, *random in zip(*(t.split(parts) for t in (log_w, noise, uniform)), strict=True):
            z = q.sample(*random)
            log_lik, log_prior = self.log_joint(batch.x, z)
            torch.sub(log_lik + log_prior, q.log_prob(z), out=out)
        return log_w

    def _columns(self) -> dict[str, tuple[Kind, int]]:
        """Name → (kind, samples) of what a test measures of each image."""
        columns: dict[str, tuple[Kind, int]] = {
            f"bound (J={self.J}, N={self.N}, i.i.d.)": ("lower bound", self.samples)
        }
        if self._quadrature is not None:
            columns["log p(x) by quadrature"] = ("exact", self._quadrature.points)
            columns[QUADRATURE_ERROR] = ("stochastic estimate", self._quadrature.points)
        if self._fitted is not None:
            S = self.test_samples
            columns[f"log p(x) ≥ L_{S} (fitted proposals)"] = ("lower bound", S)
            columns |= WeightChecks(S).columns
        if self._reference_logits is not None:
            columns["image-independent Bernoulli"] = ("exact", 0)
        return columns

    def on_test_epoch_end(self) -> None:
        """Report them as labelled quantities, their difference, and what a model without a latent reaches."""
        columns = self._columns()
        values = dict(zip(columns, self.gather(self.test_values).unbind(-1), strict=True))
        checks = WeightChecks(self.test_samples)
        units = checks.units
        quantities = [
            Quantity.mean_of(name, values[name], kind=kind, split="test", samples=n, unit=units.get(name, self.unit))
            for name, (kind, n) in columns.items()
        ]
        if self._quadrature is not None:
            name = "KL(p(z) ‖ p(z|x))" if self.N == 1 else "log p(x) − bound"
            gap = values["log p(x) by quadrature"] - next(iter(values.values()))
            kind: Kind = "stochastic estimate"
            quantities.insert(3, Quantity.mean_of(name, gap, kind=kind, split="test", samples=self.samples))
            self._quadrature = None  # a decoded grid is worth 100 MB
        cure = "raise model.test_samples, or use 'lvm-lightning anneal'"
        notes = checks.notes(values, cure) if self._fitted is not None else []
        self._fitted = None
        self.report(quantities, values, notes)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """For each image, the trained bound and the posterior mean of z by self-normalised importance sampling.

        Returns:
            ``bound`` ``(B,)`` in nats, ``z_mean`` ``(B, K)`` and ``label`` ``(B,)``.
        """
        z = self._own_points("iid", batch, self.noise("predict", batch_idx))  # (J, N, B, K)
        log_w = self._evaluate(batch.x, z)
        weight = log_w.flatten(0, 1).softmax(0).unsqueeze(-1)
        z_mean = (weight * z.flatten(0, 1)).sum(0)
        return {"bound": nested_iw_elbo(log_w), "z_mean": z_mean, "label": batch.label}

    def _own_points(self, points: Points, batch: Batch, generator: torch.Generator) -> Tensor:
        """z ~ p(z) for each example, ``(J, N, B, K)``: this process's rows of the global batch's points."""
        z = self._prior_points(points, self.samples, batch.total, generator)
        return z[:, batch.start : batch.start + len(batch.x)].reshape(self.J, self.N, len(batch.x), -1)

    def _prior_points(self, points: Points, samples: int, batch: int, generator: torch.Generator) -> Tensor:
        z = self.prior.icdf(UNIFORM[points](samples, batch, self.prior.dim, generator))
        return z.to(self.device, cast(torch.dtype, self.dtype))

    def _evaluate(self, x: Tensor, z: Tensor) -> Tensor:
        """:meth:`log_weights` in float32, a few examples at a time when each has points of its own."""
        with self.full_precision():
            if z.shape[-2] == 1:
                return self.log_weights(x, z)
            rows = max(1, DECODED_ROWS // math.prod(z.shape[:-2]))
            chunks = zip(x.split(rows), z.split(rows, dim=-2), strict=True)
            return torch.cat([self.log_weights(x_rows, z_rows) for x_rows, z_rows in chunks], dim=-1)


def _log(pixel_mean: Tensor) -> Tensor:
    """The teaching source's start of the output bias."""
    return (pixel_mean + 1e-6).log()
