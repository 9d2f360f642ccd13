"""The model without an encoder whose proposals come from the decoder: an ascent to a mode, and the curvature there."""

import torch
from torch import Tensor

from lvm_lightning.data.loader import Batch
from lvm_lightning.densities import Bernoulli, StandardNormal
from lvm_lightning.evaluation import Evaluator, Given
from lvm_lightning.evaluation.fitted import FittedFromEncoder
from lvm_lightning.evaluation.fitting import BestPilots, FittedProposals
from lvm_lightning.evaluation.laplace import LaplaceProposal
from lvm_lightning.evaluation.quadrature import Exact
from lvm_lightning.evaluation.standard import Gap, GreyLevels, PosteriorMeans, TrainedBound
from lvm_lightning.model import LatentVariableModel
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.modules.gaussian_vae import LikelihoodCallable, NetworkCallable, OutputBias
from lvm_lightning.modules.optimizing import (
    LRSchedulerCallable,
    OptimizerCallable,
    require_callables,
    start_output_bias,
)
from lvm_lightning.networks import MLP
from lvm_lightning.objectives import BoundArgument, Objective, iw_elbo
from lvm_lightning.support.argtypes import NonNegativeInt, PositiveInt
from lvm_lightning.support.autocast import autocast_of_now

LONGEST = 1.0
"""Longest step of the ascents in standard deviations of the prior: with twice a test's, six steps reach the mode."""


class LaplaceIWAE(LatentVariableModule):
    """Latent-variable model trained on the importance-weighted bound with proposals that no network has to learn.

        log p(x) ≥ E[ 1/J Σ_j log 1/N Σ_n p(x, z_{j,n})/q(z_{j,n}|x) ],   z_{j,n} ~ q(z|x)
        q(z|x) = 0.05 N(z; 0, I) + 0.95 N(z; m, 1.2² H⁻¹),   H = Jᵀ F J + I

    From the best of some points of the prior, a damped Gauss–Newton ascent of log p(x, z) finds the mode m; J is the
    Jacobian of the decoder there, and F the Fisher information of the likelihood's parameters. In each step that is
    done anew for the images of the batch, under the decoder as it is: nothing is kept for an image, and one that was
    never seen is treated as those of the training. The gradient holds q(z|x) fixed.

    Args:
        latent_dim: number K of latent dimensions; a step's time grows with it.
        outer_samples: J, the number of bounds that are averaged.
        inner_samples: N, the number of samples inside the logarithm. With few of them a sample of the prior's part
            costs the bound much.
        bound: what the N log-weights of an example become: a function of :mod:`lvm_lightning.objectives`, or your own.
        pilots: number of points of the prior, of which the best is where an image's ascent starts. They are the same in
            all steps: an image that is now here and now there is learned nowhere. More dimensions need more of them.
        ascent_steps: steps of the ascents.
        likelihood: p(x|z): ``Bernoulli``, ``ContinuousBernoulli``, ``Gaussian`` or ``PixelwiseGaussian``.
        output_bias: where the decoder's output bias starts: the parameters of the training images' ``pixel_means``, or
            as torch starts it (``zero``).
        decoder: (K, P·D) → network z ``(*, K)`` → parameters ``(*, P·D)`` of the likelihood, P a pixel.
        data_dim: number D of pixels.
        optimizer: parameters → optimiser.
        lr_scheduler: optimiser → learning-rate schedule, stepped once a training step; none keeps the rate.

    Raises:
        ValueError: if there is no sample (J·N < 1), or the likelihood gives the data no probability.

    Reference:
        Burda et al., Importance Weighted Autoencoders, 2016, eq. 8; Park et al., Variational Laplace Autoencoders,
        2019, section 3 (Laplace's approximation as q(z|x), after an encoder's guess); Tierney & Kadane 1986, eq. 2.4.
    """

    def __init__(
        self,
        latent_dim: PositiveInt = 12,
        outer_samples: PositiveInt = 1,
        inner_samples: PositiveInt = 8,
        bound: BoundArgument = iw_elbo,
        pilots: PositiveInt = 8192,
        ascent_steps: NonNegativeInt = 6,
        likelihood: LikelihoodCallable = Bernoulli,
        output_bias: OutputBias = "pixel_means",
        decoder: NetworkCallable = MLP,
        data_dim: PositiveInt = 784,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.Adam(parameters, lr=1e-3, fused=True),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(Objective(outer_samples, inner_samples, bound), optimizer, lr_scheduler)
        require_callables(decoder=decoder, likelihood=likelihood, bound=bound)
        self.save_hyperparameters()
        self.forget_callables()
        self.pilots, self.ascent_steps, self.output_bias = pilots, ascent_steps, output_bias
        p_x = likelihood()
        parameters = p_x.parameters_per_pixel * data_dim
        self.model = LatentVariableModel(StandardNormal(latent_dim), decoder(latent_dim, parameters), p_x)

    def setup(self, stage: str) -> None:
        """Check the data, and start the output bias from the training images where that is asked for."""
        super().setup(stage)
        if stage == "fit" and self.output_bias == "pixel_means":
            likelihood = self.model.likelihood
            start_output_bias(self.model.decoder, self.output_bias, self.datamodule, likelihood.parameters_of_mean)

    def propose(self, x: Tensor) -> LaplaceProposal:
        """q(z|x) of each image, x ``(B, D)``.

        The points of the prior are always the same, so that where an ascent starts changes with the decoder alone.
        """
        precision = autocast_of_now(x.device.type)

        def decode(z: Tensor) -> Tensor:
            """In a training's precision: weights know which q was found, and how exactly does not matter to them."""
            with precision():
                return self.model.decode(z).to(z.dtype)

        pilots = self.model.prior.sample(self.pilots, self.noise("pilots", 0)).to(x)
        likelihood = self.model.likelihood
        starts = BestPilots(decode, likelihood, pilots, modes=1)
        return LaplaceProposal(FittedProposals(decode, likelihood, starts, steps=self.ascent_steps, longest=LONGEST), x)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One step up the bound of log w = log p(x|z) + (log p(z) − log q(z|x)), z ~ q(z|x) of the decoder as it is."""
        q, B = self.propose(batch.x), len(batch.x)
        (drawn,) = q.draws(self.samples, batch.rows, self.noise("train", self.global_step), self.samples * batch.total)
        z = drawn.z.view(self.J, self.N, B, -1)
        log_lik, log_prior = self.model.log_joint(batch.x, z, self.skipping(B))
        bound = self.objective.bound_of(log_lik + (log_prior - drawn.log_q.view(self.J, self.N, B)))
        return self.climb(bound, bound.detach())

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The training bound on held-out images with the same noise at every validation."""
        self.keep_bound(self._bound(batch, self.noise("val", batch_idx)), batch_idx)

    def _bound(self, batch: Batch, generator: torch.Generator) -> Tensor:
        with self.full_precision():
            log_w = self.model.log_weights(batch.x, self.propose(batch.x), self.samples, generator, batch.rows)
        return self.objective.bound_of(log_w.view(self.J, self.N, -1))

    def evaluators(self) -> list[Evaluator]:
        """log p(x), exact or fitted; the trained bound; the active units; what follows from them."""
        exact, bound = Exact(self.settings.spacing), TrainedBound(self.objective)
        found: list[Evaluator] = [self._fitted() if exact.lacks(self.model) else exact, bound, Gap(bound)]
        found.append(PosteriorMeans())
        if self.data.bin_width is not None and self.data.pixels is not None:
            found.append(GreyLevels(self.data.bin_width, self.data.pixels))
        return found

    def _fitted(self) -> FittedFromEncoder:
        return FittedFromEncoder.of(self.settings.log_p, self.settings.samples)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """For each image, the trained bound and the posterior mean of z by self-normalised importance sampling.

        Returns:
            ``bound`` ``(B,)`` in nats, ``z_mean`` = E[z|x] and its standard error ``z_mean_error``, ``(B, K)`` each,
            and ``label`` ``(B,)``.
        """
        bound, fitted = self._bound(batch, self.noise("predict", batch_idx)), self._fitted()
        with self.full_precision():
            found = []
            for first, group in batch.groups(fitted.rows or batch.total):
                noise = self.noise("fitted", (batch_idx << 32) + first)
                found.append(fitted.posterior_mean(Given(self.model, self.propose(group.x), group, noise)))
        means, errors = zip(*found, strict=True)
        return {"bound": bound, "z_mean": torch.cat(means), "z_mean_error": torch.cat(errors), "label": batch.label}
