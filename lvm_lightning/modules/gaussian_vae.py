"""The variational autoencoder with a diagonal-Gaussian posterior, and its relatives."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torchmetrics.aggregation import CatMetric

from lvm_lightning.data.loader import Batch
from lvm_lightning.densities.likelihoods import Bernoulli, Likelihood
from lvm_lightning.densities.priors import Prior, StandardNormal
from lvm_lightning.densities.proposals import GaussianPosterior, Posterior, Proposal
from lvm_lightning.evaluation.diagnostics import active_units
from lvm_lightning.evaluation.importance import WeightChecks
from lvm_lightning.evaluation.quadrature import Quadrature
from lvm_lightning.evaluation.quantity import Kind, Quantity
from lvm_lightning.modules.base import (
    DECODED_ROWS,
    QUADRATURE_ERROR,
    TEST_ROWS,
    Latents,
    LatentVariableModule,
    LRSchedulerCallable,
    OptimizerCallable,
)
from lvm_lightning.networks import MLP
from lvm_lightning.objectives.bounds import elbo, iw_elbo
from lvm_lightning.objectives.estimators import DecoderBound, Estimator, Objective
from lvm_lightning.support.argtypes import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from lvm_lightning.support.portions import mean_in_portions

MEAN_SAMPLES = 1024
"""Samples for the mean of a q(z|x) that has none in closed form: their noise is a tenth of what makes a unit active."""

LIGHTER_WEIGHTS = "raise model.test_samples, widen the proposal with model.test_widen, or use 'lvm-lightning anneal'"

NetworkCallable = Callable[[int, int], nn.Module]
PosteriorCallable = Callable[[int], Posterior]
PriorCallable = Callable[[int], Prior]
LikelihoodCallable = Callable[[], Likelihood]
OutputBias = Literal["pixel_means", "zero"]


class Terms(NamedTuple):
    """The three densities of a log importance weight, each ``(*S, B)`` in nats."""

    log_lik: Tensor
    log_prior: Tensor
    log_q: Tensor

    @property
    def log_w(self) -> Tensor:
        """log w = log p(x|z) + (log p(z) − log q(z|x))."""
        return self.log_lik + (self.log_prior - self.log_q)


class GaussianVAE(LatentVariableModule):
    """Latent-variable model with an encoder q(z|x), trained on any bound with any gradient estimator.

        log w_{j,n} = log p(x|z_{j,n}) + (log p(z_{j,n}) − log q(z_{j,n}|x)),   z_{j,n} ~ q(z|x)
        log p(x) ≥ E[ 1/J Σ_j 1/(1−α) log 1/N Σ_n w_{j,n}^{1−α} ]

    N = 1 is the VAE (the ELBO, from J samples), α = 0 the IWAE, 0 < α < 1 the variational Rényi bound.

    Args:
        latent_dim: number K of latent dimensions.
        outer_samples: J, the number of bounds that are averaged.
        inner_samples: N, the number of samples inside the logarithm.
        alpha: order α of the Rényi bound, 0 ≤ α < 1; 0 is the importance-weighted bound.
        estimator: gradient estimator: ``pathwise``, ``sticking_the_landing`` or ``doubly_reparameterised``. It changes
            no value. Sticking the landing is biased when N > 1.
        decoder_bound: ``same`` as the encoder's, or ``pooled``: the decoder climbs the bound of all J·N samples in one
            logarithm while the encoder climbs the mean of J bounds (PIWAE).
        kl_warmup_steps: steps over which the loss's weight of (log p(z) − log q(z|x)) rises to 1; 0 is none.
        free_bits: λ in nats per latent dimension: the loss takes max(λ, KL_k) for each dimension's mean KL over the
            batch. Like the warm-up it changes the loss alone; every number that is logged is the bound.
        encoder: (D, features of the posterior) → network x ``(B, D)`` → h.
        decoder: (K, P·D) → network z ``(*, K)`` → parameters ``(*, P·D)`` of the likelihood, P a pixel.
        posterior: K → what turns h into q(z|x): ``GaussianPosterior`` or ``InverseAutoregressiveFlow``.
        prior: K → p(z): ``StandardNormal`` or ``FlowPrior``.
        likelihood: p(x|z): ``Bernoulli``, ``Gaussian`` or ``PixelwiseGaussian``.
        output_bias: where the decoder's output bias starts: the parameters of the training images' ``pixel_means``, or
            as torch starts it (``zero`` is the other family's name for that).
        test_samples: S of the importance-weighted bound L_S that ``test`` measures log p(x) with.
        test_widen: what that measurement multiplies the standard deviations of q(z|x) by: a wider proposal has lighter
            weights where q is too narrow.
        quadrature_spacing: distance of the grid points that ``test`` measures log p(x) with where K = 2. A sharper
            posterior needs a finer grid; the grid's error stands beside the value.
        data_dim: number D of pixels.
        optimizer: parameters → optimiser.
        lr_scheduler: optimiser → learning-rate schedule, stepped once a training step; none keeps the rate.

    Raises:
        ValueError: if there is no sample (J·N < 1), α is outside [0, 1), the posterior has no reparameterisation, free
            bits are asked for without a closed-form KL, or the likelihood is Bernoulli and the data are not binary.

    Reference:
        Kingma & Welling, Auto-Encoding Variational Bayes, 2014, eq. 7; Burda et al., Importance Weighted Autoencoders,
        2016, eq. 8; Li & Turner, Rényi Divergence Variational Inference, 2016, eq. 10; Bowman et al., Generating
        Sentences from a Continuous Space, 2016 (warm-up); Kingma et al. 2016, eq. 15 (free bits).
    """

    def __init__(
        self,
        latent_dim: PositiveInt = 50,
        outer_samples: PositiveInt = 1,
        inner_samples: PositiveInt = 1,
        alpha: NonNegativeFloat = 0.0,
        estimator: Estimator = "pathwise",
        decoder_bound: DecoderBound = "same",
        kl_warmup_steps: NonNegativeInt = 0,
        free_bits: NonNegativeFloat = 0.0,
        encoder: NetworkCallable = MLP,
        decoder: NetworkCallable = MLP,
        posterior: PosteriorCallable = GaussianPosterior,
        prior: PriorCallable = StandardNormal,
        likelihood: LikelihoodCallable = Bernoulli,
        output_bias: OutputBias = "zero",
        test_samples: PositiveInt = 5000,
        test_widen: PositiveFloat = 1.0,
        quadrature_spacing: PositiveFloat = 0.05,
        data_dim: PositiveInt = 784,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.Adam(parameters, lr=1e-3, fused=True),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(optimizer, lr_scheduler)
        self.require_callables(
            encoder=encoder, decoder=decoder, posterior=posterior, prior=prior, likelihood=likelihood
        )
        self.objective = Objective(outer_samples, inner_samples, alpha, estimator, decoder_bound)
        self.save_hyperparameters()
        self.forget_callables()
        self.J, self.N, self.test_samples, self.output_bias = outer_samples, inner_samples, test_samples, output_bias
        self.kl_warmup_steps, self.free_bits, self.test_widen = kl_warmup_steps, free_bits, test_widen
        self.quadrature_spacing = quadrature_spacing
        self.prior, self.likelihood, self.posterior = prior(latent_dim), likelihood(), posterior(latent_dim)
        self.encoder = encoder(data_dim, self.posterior.features)
        self.decoder = decoder(latent_dim, self.likelihood.parameters_per_pixel * data_dim)
        self._require_meaning()
        self.val_terms, self.test_values = CatMetric(nan_strategy="error"), CatMetric(nan_strategy="error")
        self.val_latents = CatMetric(nan_strategy="error")
        self._quadrature: Quadrature | None = None

    def _require_meaning(self) -> None:
        name = type(self.posterior).__name__
        if not self.posterior.reparameterised:
            raise ValueError(
                f"model.estimator: {self.objective.estimator} needs a reparameterised posterior, got {name}; set "
                "model.posterior to GaussianPosterior or InverseAutoregressiveFlow"
            )
        closed = self.posterior.factorised and isinstance(self.prior, StandardNormal)
        if self.free_bits > 0 and not closed:
            raise ValueError(
                f"model.free_bits: needs the closed-form KL of each dimension, got {name} and "
                f"{type(self.prior).__name__}; set free_bits to 0, or use GaussianPosterior and StandardNormal"
            )

    @property
    def samples(self) -> int:
        """J·N."""
        return self.J * self.N

    def setup(self, stage: str) -> None:
        """Check the data, and start the output bias from the training images' pixel means if asked to."""
        super().setup(stage)
        if stage == "fit" and self.output_bias == "pixel_means":
            self.start_output_bias(self.output_bias, self.likelihood.parameters_of_mean)

    def encode(self, x: Tensor) -> Proposal:
        """q(z|x) of each image, x ``(B, D)``."""
        return cast(Proposal, self.posterior(self.encoder(x)))

    def proposal(self, x: Tensor) -> Proposal:
        """q(z|x)."""
        return self.encode(x)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One step up the bound of log w = log p(x|z) + (log p(z) − log q(z|x)), z ~ q(z|x)."""
        features = self.encoder(batch.x)
        noise = self._noise(batch, self.samples, self.noise("train", self.global_step))
        noise = noise.view(self.J, self.N, *noise.shape[1:])
        others = [p for name, p in self.named_parameters() if not name.startswith("encoder.")]
        surrogate, bound = mean_in_portions(self._objective, [features, batch.x, noise], others, self.samples)
        return self.maximise(surrogate - self._free_bits_penalty(features), bound)

    def _objective(self, features: Tensor, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The surrogate that is raised and the bound, ``(B,)`` each, from the encoder's features of x."""
        draw = self.objective.draw(self.posterior(features), noise)
        log_lik, log_prior = self.log_joint(x, draw.z)
        surrogate = self.objective.surrogate(draw, log_lik, log_prior, self.kl_weight)
        if self.kl_weight == 1:
            return surrogate, surrogate.detach()  # its value is the bound
        return surrogate, self.objective.bound(Terms(log_lik, log_prior, draw.log_q).log_w.detach())

    @property
    def kl_weight(self) -> float:
        """Weight of (log p(z) − log q(z|x)) in this step's loss."""
        return min(1.0, (self.global_step + 1) / self.kl_warmup_steps) if self.kl_warmup_steps else 1.0

    def _free_bits_penalty(self, features: Tensor) -> Tensor | float:
        """Σ_k max(λ, KL_k) − KL_k: what free bits add to the loss. KL_k is the mean over all processes' images."""
        kl = cast(Proposal, self.posterior(features)).kl_per_dimension() if self.free_bits > 0 else None
        if kl is None:
            return 0.0
        mean = kl.mean(0)
        if self._trainer is not None and self._trainer.world_size > 1:
            mean = torch.as_tensor(self.all_gather(mean, sync_grads=True)).mean(0)
        return (self.free_bits - mean).relu().sum()

    def evaluate(self, batch: Batch, q: Proposal, samples: int, generator: torch.Generator) -> Terms:
        """The three densities at S fresh samples of q, ``(S, B)`` each, decoded some at a time in float32."""
        parts = []
        for count in _chunks(samples, max(1, DECODED_ROWS // batch.total)):
            z, log_q = q.rsample(self._noise(batch, count, generator))
            parts.append(Terms(*self.log_joint(batch.x, z), log_q))
        return Terms(*(torch.cat(terms) for terms in zip(*parts, strict=True)))

    def draw_log_weights(self, batch: Batch, samples: int, generator: torch.Generator) -> Tensor:
        """log w at S draws from q(z|x) for each image, ``(S, B)``."""
        with self.full_precision():
            return self.evaluate(batch, self.encode(batch.x), samples, generator).log_w

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The training bound on held-out images with the same noise at every validation, and its two parts."""
        with self.full_precision():
            q = self.encode(batch.x)
            terms = self.evaluate(batch, q, self.samples, self.noise("val", batch_idx))
        self.keep_bound(self._trained_bound(terms), batch_idx)
        self.val_terms.update(torch.stack([terms.log_lik.mean(0), (terms.log_q - terms.log_prior).mean(0)], -1))
        kl = q.kl_per_dimension()
        self.val_latents.update(torch.cat([q.location, batch.label.unsqueeze(-1), *([] if kl is None else [kl])], -1))

    def on_validation_epoch_end(self) -> None:
        """Log the bound, its parts and the active units; keep the latents for pictures."""
        super().on_validation_epoch_end()
        reconstruction, kl = self.gather(self.val_terms).double().mean(0)
        self.log_dict({"val/reconstruction": reconstruction, "val/kl": kl})
        location, label, kl_each = self.gather(self.val_latents).tensor_split([self.prior.dim, self.prior.dim + 1], -1)
        self.latents = Latents(location, kl_each if self.posterior.factorised else None, label.squeeze(-1).long())
        if self.posterior.factorised:
            self.log("val/active_units", float(active_units(location)))

    def on_test_start(self) -> None:
        """Decode the quadrature grid where K ≤ 2, once for all batches."""
        self._quadrature = self.quadrature()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """ELBO, its parts and L_S from S samples, the trained bound from J·N others, exact log p(x) where K ≤ 2."""
        self.test_values.update(self.remembered(batch_idx, lambda: self._measure(batch, batch_idx)))

    def _measure(self, batch: Batch, batch_idx: int) -> Tensor:
        """A column for each of :meth:`_columns`, and E_q[z]: ``(B, columns + K)``, float64."""
        parts = [
            self._measure_group(group, self.noise("test", (batch_idx << 32) + first))
            for first, group in batch.groups(TEST_ROWS)
        ]
        return torch.cat(parts)

    def _measure_group(self, batch: Batch, generator: torch.Generator) -> Tensor:
        S = self.test_samples
        with self.full_precision():
            q = self.encode(batch.x)
            terms = self.evaluate(batch, q, S + self.samples, generator)
            first, rest = Terms(*(t[:S] for t in terms)), Terms(*(t[S:] for t in terms))
            widened = self.test_widen != 1
            log_w = self.evaluate(batch, q.widened(self.test_widen), S, generator).log_w if widened else first.log_w
            kl = (first.log_q - first.log_prior).mean(0)
            values = [self._trained_bound(rest), elbo(first.log_w), first.log_lik.mean(0), kl, iw_elbo(log_w.double())]
            values += WeightChecks(S).measure(log_w)
            if self._quadrature is not None:
                values += self._quadrature.measure(batch.x)
            mean = q.location if self.posterior.factorised else self._mean_of(q, batch, generator)
        return torch.cat([torch.stack([value.double() for value in values], -1), mean.double()], -1)

    def _mean_of(self, q: Proposal, batch: Batch, generator: torch.Generator) -> Tensor:
        """E_q[z] from samples, ``(B, K)``: their noise adds at most 0.001 of q's variance to that over images."""
        parts = [q.rsample(self._noise(batch, n, generator))[0].sum(0) for n in _chunks(MEAN_SAMPLES, 64)]
        return cast(Tensor, sum(parts)) / MEAN_SAMPLES

    def _columns(self) -> dict[str, tuple[Kind, int]]:
        """Name → (kind, samples) of what a test measures of each image."""
        S, alpha = self.test_samples, self.objective.alpha
        family = f"Rényi bound (α={alpha:g}, " if alpha else "bound ("
        pooled = self.objective.decoder_bound == "pooled"
        axes = f"J=1, N={self.samples}" if pooled else f"J={self.J}, N={self.N}"
        columns: dict[str, tuple[Kind, int]] = {
            f"{family}{axes})": ("lower bound", self.samples),
            "ELBO": ("lower bound", S),
            "E_q log p(x|z)": ("stochastic estimate", S),
            "KL(q(z|x) ‖ p(z))": ("stochastic estimate", S),
            f"log p(x) ≥ L_{S}": ("lower bound", S),
        }
        columns |= WeightChecks(S).columns
        if self._quadrature is not None:
            columns["log p(x) by quadrature"] = ("exact", self._quadrature.points)
            columns[QUADRATURE_ERROR] = ("stochastic estimate", self._quadrature.points)
        return columns

    def on_test_epoch_end(self) -> None:
        """Report them as labelled quantities."""
        S, columns = self.test_samples, self._columns()
        measured, mean = self.gather(self.test_values).tensor_split([len(columns)], -1)
        values = dict(zip(columns, measured.unbind(-1), strict=True))
        checks = WeightChecks(S)
        units = {"KL(q(z|x) ‖ p(z))": "nats per image", **checks.units}
        quantities = [
            Quantity.mean_of(name, values[name], kind=kind, split="test", samples=n, unit=units.get(name, self.unit))
            for name, (kind, n) in columns.items()
        ]
        log_p = values.get("log p(x) by quadrature", values[f"log p(x) ≥ L_{S}"])
        kind: Kind = "stochastic estimate" if "log p(x) by quadrature" in values else "lower bound"
        gap = log_p - values["ELBO"]
        name = "log p(x) − ELBO" if kind == "stochastic estimate" else f"log p(x) − ELBO ≥ L_{S} − ELBO"
        quantities.append(Quantity.mean_of(name, gap, kind=kind, split="test", samples=S))
        quantities.append(self._active_units(mean))
        bin_width = self._of_data("bin_width", None)
        if bin_width is not None:
            name = f"log P(256 grey levels) ≥ L_{S} + D log Δ"
            discrete = values[f"log p(x) ≥ L_{S}"] + self.hparams["data_dim"] * math.log(bin_width)
            quantities.append(Quantity.mean_of(name, discrete, kind="lower bound", split="test", samples=S))
        self._quadrature = None  # a decoded grid is worth 100 MB
        self.report(quantities, values, checks.notes(values, LIGHTER_WEIGHTS))

    def _active_units(self, mean: Tensor) -> Quantity:
        """Of the test images, as their number depends on how many there are."""
        return Quantity(
            name="active units",
            value=float(active_units(mean)),
            stderr=0.0,
            unit=f"of {self.prior.dim} latent dimensions",
            kind="exact" if self.posterior.factorised else "stochastic estimate",
            split="test",
            samples=0 if self.posterior.factorised else MEAN_SAMPLES,
            images=len(mean),
        )

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """For each image, the trained bound and where its proposal lies.

        Returns:
            ``bound`` ``(B,)`` in nats, ``z_mean`` ``(B, K)`` and ``label`` ``(B,)``.
        """
        with self.full_precision():
            q = self.encode(batch.x)
            terms = self.evaluate(batch, q, self.samples, self.noise("predict", batch_idx))
        return {"bound": self._trained_bound(terms), "z_mean": q.location, "label": batch.label}

    def _trained_bound(self, terms: Terms) -> Tensor:
        return self.objective.bound(terms.log_w.view(self.J, self.N, -1))

    def _noise(self, batch: Batch, samples: int, generator: torch.Generator) -> Tensor:
        """ε ~ N(0, I), ``(samples, B, K)``: this process's rows of the global batch's noise."""
        noise = torch.randn(samples, batch.total, self.prior.dim, generator=generator)
        return noise[:, batch.start : batch.start + len(batch.x)].to(self.device, cast(torch.dtype, self.dtype))


def _chunks(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]
