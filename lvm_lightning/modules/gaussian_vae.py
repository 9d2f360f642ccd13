"""The variational autoencoder with a diagonal-Gaussian posterior, and its relatives."""

from collections.abc import Callable
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torchmetrics.aggregation import CatMetric

from lvm_lightning.data.loader import Batch
from lvm_lightning.data.protocol import examples
from lvm_lightning.densities import (
    Bernoulli,
    GaussianPosterior,
    Likelihood,
    NoiseProposal,
    Posterior,
    Prior,
    StandardNormal,
)
from lvm_lightning.evaluation import Evaluator
from lvm_lightning.evaluation.diagnostics import Latents, active_units
from lvm_lightning.evaluation.fitted import FittedFromEncoder
from lvm_lightning.evaluation.quadrature import Exact
from lvm_lightning.evaluation.standard import GreyLevels, ImportanceSampling, PosteriorMeans, TrainedBound
from lvm_lightning.model import LatentVariableModel
from lvm_lightning.modules.base import LatentVariableModule
from lvm_lightning.modules.optimizing import (
    LRSchedulerCallable,
    OptimizerCallable,
    require_callables,
    start_output_bias,
)
from lvm_lightning.networks import MLP
from lvm_lightning.networks.schedules import steps_of_share
from lvm_lightning.objectives import BoundArgument, DecoderBound, Estimator, Objective, iw_elbo
from lvm_lightning.support.argtypes import ClosedUnitInterval, NonNegativeFloat, PositiveInt
from lvm_lightning.support.portions import mean_in_portions
from lvm_lightning.support.randomness import dropout, normal_noise
from lvm_lightning.support.skipping import Skipping

NetworkCallable = Callable[[int, int], nn.Module]
PosteriorCallable = Callable[[int], Posterior]
PriorCallable = Callable[[int], Prior]
LikelihoodCallable = Callable[[], Likelihood]
OutputBias = Literal["pixel_means", "zero"]


class GaussianVAE(LatentVariableModule):
    """Latent-variable model with an encoder q(z|x), trained on any bound with any gradient estimator.

        log w_{j,n} = log p(x|z_{j,n}) + (log p(z_{j,n}) − log q(z_{j,n}|x)),   z_{j,n} ~ q(z|x)
        log p(x) ≥ E[ 1/J Σ_j log 1/N Σ_n w_{j,n} ]

    N = 1 is the VAE (the ELBO, from J samples), N > 1 the IWAE; ``bound`` puts another function of the log-weights in
    the place of the log-mean-exp.

    Args:
        latent_dim: number K of latent dimensions.
        outer_samples: J, the number of bounds that are averaged.
        inner_samples: N, the number of samples inside the logarithm.
        bound: what the N log-weights of an example become: a function of :mod:`lvm_lightning.objectives`, or your own.
        estimator: gradient estimator: ``pathwise``, ``sticking_the_landing`` or ``doubly_reparameterised``. It changes
            no value. Sticking the landing is biased when N > 1.
        decoder_bound: ``same`` as the encoder's, or ``pooled``: the decoder climbs the bound of all J·N samples in one
            logarithm while the encoder climbs the mean of J bounds (PIWAE).
        kl_warmup: share of the training in which the loss's weight of (log p(z) − log q(z|x)) rises to 1; 0 is none.
        free_bits: λ in nats per latent dimension: the loss takes max(λ, KL_k) for each dimension's mean KL over the
            batch. Like the warm-up it changes the loss alone; every number that is logged is the bound.
        roulette: samples with less than this share of an example's weight enter the gradient at random, and count for
            more there (Russian roulette, unbiased). 0 leaves out only what is negligible.
        encoder_dropout: share of each image's pixels that a training step hides from the encoder, at random, the others
            over 1 − share, which keeps a learned prior from fitting the training images too closely. What is logged in
            training stays a lower bound, with the q(z|x) of what the encoder saw.
        encoder: (D, features of the posterior) → network x ``(B, D)`` → h.
        decoder: (K, P·D) → network z ``(*, K)`` → parameters ``(*, P·D)`` of the likelihood, P a pixel.
        posterior: K → what turns h into q(z|x): ``GaussianPosterior`` or ``InverseAutoregressiveFlow``.
        prior: K → p(z): ``StandardNormal``, ``FlowPrior`` or ``VampPrior``.
        likelihood: p(x|z): ``Bernoulli``, ``ContinuousBernoulli``, ``Gaussian`` or ``PixelwiseGaussian``.
        output_bias: where the decoder's output bias starts: the parameters of the training images' ``pixel_means``, or
            as torch starts it (``zero`` is the other family's name for that).
        data_dim: number D of pixels.
        optimizer: parameters → optimiser.
        lr_scheduler: optimiser → learning-rate schedule, stepped once a training step; none keeps the rate.

    Raises:
        ValueError: if there is no sample (J·N < 1), the posterior has no reparameterisation, free bits are asked for
            without a closed-form KL, or the likelihood gives the data no probability.

    Reference:
        Kingma & Welling, Auto-Encoding Variational Bayes, 2014, eq. 7; Burda et al., Importance Weighted Autoencoders,
        2016, eq. 8; Bowman et al., Generating Sentences from a Continuous Space, 2016 (warm-up); Kingma et al. 2016,
        eq. 15 (free bits); Im et al., Denoising Criterion for Variational Auto-Encoding Framework, 2017 (an encoder
        that sees less).
    """

    def __init__(
        self,
        latent_dim: PositiveInt = 50,
        outer_samples: PositiveInt = 1,
        inner_samples: PositiveInt = 1,
        bound: BoundArgument = iw_elbo,
        estimator: Estimator = "pathwise",
        decoder_bound: DecoderBound = "same",
        kl_warmup: ClosedUnitInterval = 0.0,
        free_bits: NonNegativeFloat = 0.0,
        roulette: ClosedUnitInterval = 0.0,
        encoder_dropout: ClosedUnitInterval = 0.0,
        encoder: NetworkCallable = MLP,
        decoder: NetworkCallable = MLP,
        posterior: PosteriorCallable = GaussianPosterior,
        prior: PriorCallable = StandardNormal,
        likelihood: LikelihoodCallable = Bernoulli,
        output_bias: OutputBias = "zero",
        data_dim: PositiveInt = 784,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.Adam(parameters, lr=1e-3, fused=True),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(
            Objective(outer_samples, inner_samples, bound, estimator, decoder_bound), optimizer, lr_scheduler
        )
        require_callables(
            encoder=encoder, decoder=decoder, posterior=posterior, prior=prior, likelihood=likelihood, bound=bound
        )
        self.save_hyperparameters()
        self.forget_callables()
        self.output_bias, self.kl_warmup, self.free_bits = output_bias, kl_warmup, free_bits
        self.roulette, self.encoder_dropout = roulette, encoder_dropout
        p_z, p_x, self.posterior = prior(latent_dim), likelihood(), posterior(latent_dim)
        self.encoder = encoder(data_dim, self.posterior.features)
        self.model = LatentVariableModel(p_z, decoder(latent_dim, p_x.parameters_per_pixel * data_dim), p_x)
        p_z.attach(self.propose, data_dim)
        self._require_meaning()
        self.latents: Latents | None = None
        self.val_terms, self.val_latents = CatMetric(nan_strategy="error"), CatMetric(nan_strategy="error")

    def _require_meaning(self) -> None:
        name, prior = type(self.posterior).__name__, self.model.prior
        if not self.posterior.reparameterised:
            raise ValueError(
                f"estimator: {self.objective.estimator} needs a reparameterised posterior, got {name}; set "
                "posterior to GaussianPosterior or InverseAutoregressiveFlow"
            )
        if self.free_bits > 0 and not (self.posterior.factorised and isinstance(prior, StandardNormal)):
            raise ValueError(
                f"free_bits: needs the closed-form KL of each dimension, got {name} and "
                f"{type(prior).__name__}; set free_bits to 0, or use GaussianPosterior and StandardNormal"
            )

    def setup(self, stage: str) -> None:
        """Check the data; start the prior and the output bias from training images where they ask for it."""
        super().setup(stage)
        if stage != "fit":
            return
        prior, likelihood = self.model.prior, self.model.likelihood
        if prior.examples:
            prior.start_from(examples(self.datamodule, "train", prior.examples))
        if self.output_bias == "pixel_means":
            start_output_bias(self.model.decoder, self.output_bias, self.datamodule, likelihood.parameters_of_mean)

    def propose(self, x: Tensor) -> NoiseProposal:
        """q(z|x) of each image, x ``(B, D)``."""
        return cast(NoiseProposal, self.posterior(self.encoder(x)))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One step up the bound of log w = log p(x|z) + (log p(z) − log q(z|x)), z ~ q(z|x)."""
        features, shape = self.encoder(self._seen(batch)), (self.samples, len(batch.x), self.model.prior.dim)
        noise = normal_noise(self.noise_seed, "train", self.global_step, shape, batch.rows)
        inputs = [features, batch.x, noise.to(batch.x).view(self.J, self.N, *shape[1:])]
        skipping = self.skipping(len(batch.x))
        objective, growth = partial(self._objective, skipping=skipping), skipping.growth if skipping else None
        surrogate, bound = mean_in_portions(objective, inputs, [*self.parameters()], self.samples, growth)
        return self.climb(surrogate, bound, self._free_bits_penalty(features))

    def _seen(self, batch: Batch) -> Tensor:
        """What the encoder sees of the images in this step, ``(B, D)``."""
        if self.encoder_dropout == 0:
            return batch.x
        return dropout(batch.x, self.encoder_dropout, self.noise("dropout", self.global_step), batch.rows)

    def _objective(
        self, features: Tensor, x: Tensor, noise: Tensor, skipping: Skipping | None
    ) -> tuple[Tensor, Tensor]:
        """The surrogate that is raised and the bound, ``(B,)`` each, from the encoder's features of x."""
        draw = self.objective.draw(self.posterior(features), noise)
        log_lik, log_prior = self.model.log_joint(x, draw.z, skipping)
        return self.objective.surrogate(draw, log_lik, log_prior, self.kl_weight)

    @property
    def kl_weight(self) -> float:
        """Weight of (log p(z) − log q(z|x)) in this step's loss."""
        rising = steps_of_share(self.kl_warmup, self.training_steps, "kl_warmup")
        return min(1.0, (self.global_step + 1) / rising) if rising else 1.0

    def _free_bits_penalty(self, features: Tensor) -> Tensor | float:
        """Σ_k max(λ, KL_k) − KL_k: what free bits add to the loss. KL_k is the mean over all processes' images."""
        kl = cast(NoiseProposal, self.posterior(features)).kl_per_dimension() if self.free_bits > 0 else None
        if kl is None:
            return 0.0
        mean = kl.mean(0)
        if self._trainer is not None and self._trainer.world_size > 1:
            mean = torch.as_tensor(self.all_gather(mean, sync_grads=True)).mean(0)
        return (self.free_bits - mean).relu().sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The training bound on held-out images with the same noise at every validation, and its two parts."""
        with self.full_precision():
            q = self.propose(batch.x)
            terms = self.model.terms(batch.x, q, self.samples, self.noise("val", batch_idx), batch.rows)
        self.keep_bound(self.objective.bound_of(terms.log_w.view(self.J, self.N, -1)), batch_idx)
        self.val_terms.update(torch.stack([terms.log_lik.mean(0), (terms.log_q - terms.log_prior).mean(0)], -1))
        kl = q.kl_per_dimension()
        self.val_latents.update(torch.cat([q.location, batch.label.unsqueeze(-1), *([] if kl is None else [kl])], -1))

    def on_validation_epoch_end(self) -> None:
        """Log the bound, its parts and the active units; keep the latents for pictures."""
        super().on_validation_epoch_end()
        reconstruction, kl = self.gather(self.val_terms).double().mean(0)
        self.log_dict({"val/reconstruction": reconstruction, "val/kl": kl}, logger=self.at_once)
        K = self.model.prior.dim
        location, label, kl_each = self.gather(self.val_latents).tensor_split([K, K + 1], -1)
        self.latents = Latents(location, kl_each if self.posterior.factorised else None, label.squeeze(-1).long())
        if self.posterior.factorised:
            self.log("val/active_units", float(active_units(location)), logger=self.at_once)

    def evaluators(self) -> list[Evaluator]:
        """log p(x), exact or fitted; ELBO, its parts and L_S; the trained bound; what follows from them."""
        exact = Exact(self.settings.spacing)
        sampling = ImportanceSampling(self.settings.samples or self.SAMPLES, self.settings.widen)
        best = FittedFromEncoder.of(self.settings.log_p, self.settings.samples) if exact.lacks(self.model) else exact
        found: list[Evaluator] = [best, sampling, TrainedBound(self.objective), PosteriorMeans()]
        if self.data.bin_width is not None and self.data.pixels is not None:
            found.append(GreyLevels(self.data.bin_width, self.data.pixels))
        return found

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """For each image, the trained bound and where its proposal lies.

        Returns:
            ``bound`` ``(B,)`` in nats, ``z_mean`` ``(B, K)`` and ``label`` ``(B,)``.
        """
        with self.full_precision():
            q = self.propose(batch.x)
            log_w = self.model.log_weights(batch.x, q, self.samples, self.noise("predict", batch_idx), batch.rows)
        bound = self.objective.bound_of(log_w.view(self.J, self.N, -1))
        return {"bound": bound, "z_mean": q.location, "label": batch.label}
