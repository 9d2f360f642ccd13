"""What every latent-variable LightningModule shares: optimiser, noise, and how a bound is kept and reported."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics.aggregation import CatMetric

from lvm_lightning.data.loader import Batch
from lvm_lightning.densities.likelihoods import Bernoulli, Likelihood
from lvm_lightning.densities.priors import Prior, StandardNormal
from lvm_lightning.densities.proposals import Proposal
from lvm_lightning.evaluation.quadrature import AdaptiveQuadrature, GridQuadrature, Quadrature
from lvm_lightning.evaluation.quantity import Quantity
from lvm_lightning.evaluation.report import FinishedBatches
from lvm_lightning.support.errors import NonFiniteError
from lvm_lightning.support.portions import in_blocks
from lvm_lightning.support.randomness import Purpose, generator_for

OptimizerCallable = Callable[[Iterable[Parameter]], Optimizer]
LRSchedulerCallable = Callable[[Optimizer], LRScheduler]

QUADRATURE_ERROR = "error of the quadrature"
DECODED_ROWS = 1024
"""Latent points decoded at a time in evaluation: their activations stay in the processor's cache."""
TEST_ROWS = 125
"""Images that a test measures at a time: of more, glibc 2.36 does not give back what thousands of samples take."""


class Latents(NamedTuple):
    """What a validation found about the proposals q(z|x) of its images.

    Attributes:
        location: where each q(z|x) lies, ``(n, K)``.
        kl: KL(q(z_k|x) ‖ N(0, 1)) in nats, ``(n, K)``; None where it has no closed form.
        label: labels, ``(n,)``.
    """

    location: Tensor
    kl: Tensor | None
    label: Tensor


class LatentVariableModule(pl.LightningModule, ABC):
    """Abstract base: a decoder p(x|z), a prior p(z), and a bound to raise.

    Args:
        optimizer: parameters → optimiser.
        lr_scheduler: optimiser → learning-rate schedule, stepped once a training step; none keeps the rate.
    """

    likelihood: Likelihood
    prior: Prior
    decoder: nn.Module
    evaluation: list[Quantity]
    """What the last test measured."""
    per_example: dict[str, Tensor]
    """The same for each test image, by name, ``(n,)``: for paired comparisons."""
    notes: list[str]
    """What a reader of the last test should know before believing it."""
    finished: FinishedBatches | None = None
    """Where the results of finished test batches are kept, so that a test that was killed can go on."""
    quadrature_spacing: float = 0.05
    """Distance of the grid points that log p(x) is measured with where K = 2."""
    latents: Latents | None = None
    """What the last validation found about the proposals, in a module that has an encoder."""

    def __init__(self, optimizer: OptimizerCallable, lr_scheduler: LRSchedulerCallable | None) -> None:
        super().__init__()
        self._optimizer, self._lr_scheduler = optimizer, lr_scheduler
        self.evaluation, self.per_example, self.notes = [], {}, []
        self.val_bound = CatMetric(nan_strategy="disable")  # keep_bound looks, and says more

    def __setattr__(self, name: str, value: Any) -> None:
        """As any module's; but Lightning notes the running hook forty times a step, which is no parameter."""
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    @property
    @abstractmethod
    def samples(self) -> int:
        """Latent points an image that the trained bound takes."""

    @property
    def unit(self) -> str:
        """Unit of a log-likelihood: nats per image, and for a density the scale of x."""
        if not self.likelihood.density:
            return "nats per image"
        low, high = self._of_data("pixel_range", (0.0, 1.0))
        return f"nats per image (density on [{low:g}, {high:g}])"

    def log_joint(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x|z) and log p(z): x ``(B, D)``, z ``(*S, B, K)`` → ``(*S, B)`` each, nats."""
        return self.log_likelihood(x, z), self.prior.log_prob(z)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x|z): x ``(B, D)``, z ``(*S, B, K)`` or shared ``(*S, 1, K)`` → ``(*S, B)``, nats.

        Where the points are so many that a training step would not fit, blocks of them are decoded once more in the
        backward pass.
        """
        samples = z.reshape(-1, *z.shape[-2:])
        log_lik = in_blocks(lambda block: self.likelihood.log_prob(self.decode(block), x), samples)
        return log_lik.view(*z.shape[:-2], -1)

    def simulate(self, like: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x ~ p(x) in the shape of ``like`` ``(B, D)``, and the z ``(B, K)`` that it came from: a sample of p(z|x)."""
        z = self.sample_prior(len(like), generator)
        return self.likelihood.sample(self.decode(z), generator), z

    def proposal(self, x: Tensor) -> Proposal | None:
        """q(z|x), where the model has an encoder."""
        return None

    @abstractmethod
    def draw_log_weights(self, batch: Batch, samples: int, generator: torch.Generator) -> Tensor:
        """Log importance weights of S i.i.d. draws from the model's own proposal, ``(S, B)``, nats, float32 or 64."""

    def log_marginal(self, x: Tensor) -> Tensor | None:
        """log p(x), ``(B, D) → (B,)``, nats, by quadrature for K ≤ 2; None where there is no exact way."""
        quadrature = self.quadrature()
        if quadrature is None:
            return None
        with self.full_precision():
            return quadrature.measure(x)[0]

    def quadrature(self) -> Quadrature | None:
        """What integrates p(x|z) p(z) over z, for a standard-normal prior and Bernoulli pixels.

        Adaptive for K = 1, a grid that is decoded once for K = 2, None beyond.
        """
        served = isinstance(self.prior, StandardNormal) and isinstance(self.likelihood, Bernoulli)
        if not served or self.prior.dim > 2:
            return None
        if self.prior.dim == 1:
            return AdaptiveQuadrature(self.decode, self.likelihood.log_prob, device=self.device)
        with self.full_precision():
            return GridQuadrature(
                *(self.decode, self.likelihood.log_prob, self.prior.dim),
                spacing=self.quadrature_spacing,
                device=self.device,
            )

    @property
    def latent_dtype(self) -> torch.dtype:
        """Type that z is computed in."""
        return cast(torch.dtype, self.dtype)

    def decode(self, z: Tensor) -> Tensor:
        """Parameters of p(x|z), ``(*, K) → (*, P·D)``."""
        return cast(Tensor, self.decoder(z))

    def sample_prior(self, count: int, generator: torch.Generator) -> Tensor:
        """z ~ p(z), ``(count, K)``, on the module's device, from a CPU generator."""
        noise = torch.randn(count, self.prior.dim, generator=generator, dtype=self.latent_dtype)
        return self.prior.transform(noise.to(self.device))

    def require_callables(self, **given: object) -> None:
        """Refuse null where a class must be.

        Raises:
            ValueError: naming the argument.
        """
        for name, value in given.items():
            if not callable(value):
                raise ValueError(f"model.{name}: must be a class or its import path, got {value}")  # noqa: TRY004

    def forget_callables(self) -> None:
        """Keep only plain hyper-parameters: a checkpoint with a function in it could not be read safely.

        The command line hands over plain descriptions of networks and optimisers; those stay.
        """
        self.remove_ignored_hparams([name for name, value in self.hparams.items() if callable(value)])

    def setup(self, stage: str) -> None:
        """Refuse data that the model does not serve."""
        self.check_data(getattr(self._trainer, "datamodule", None))

    def check_data(self, data: pl.LightningDataModule | None) -> None:
        """Look at what a data module says of itself.

        Raises:
            ValueError: if its examples have another size, or the likelihood gives them no probability.
        """
        shape, values = getattr(data, "image_shape", None), getattr(data, "values", "binary")
        pixels, served = math.prod(shape or ()), self.hparams.get("data_dim")
        if data is not None and hasattr(data, "image_shape") and (shape is None) != (served is None):
            raise ValueError(
                f"data: {type(self).__name__} models {'observations' if served is None else 'images'}, got "
                f"{type(data).__name__}; give the data module of one of its configs"
            )
        if shape is not None and pixels != served:
            raise ValueError(
                f"model.data_dim: must be the {pixels} pixels of an image, got {served}; set it to {pixels}"
            )
        if self.likelihood.support == "binary" and values != "binary":
            raise ValueError(self._not_binary(f"{values} ones"))

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Look at the values of an epoch's first batch: they may come from a loader that says nothing of them."""
        self._require_support(batch, batch_idx)

    def on_validation_batch_start(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """As in training."""
        self._require_support(batch, batch_idx)

    def on_test_batch_start(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """As in training."""
        self._require_support(batch, batch_idx)

    def _require_support(self, batch: Batch, batch_idx: int) -> None:
        if batch_idx == 0 and self.likelihood.support == "binary":
            other = batch.x[(batch.x != 0) & (batch.x != 1)]
            if len(other):
                raise ValueError(self._not_binary(f"the value {float(other[0]):g}"))

    def _not_binary(self, received: str) -> str:
        return (
            f"data: a {type(self.likelihood).__name__} likelihood needs binary images, got {received}; set "
            "data.binarisation to static, dynamic or threshold"
        )

    def _of_data(self, name: str, default: Any) -> Any:
        """What the data module says of itself, where there is one."""
        trainer = self._trainer
        return getattr(getattr(trainer, "datamodule", None), name, default)

    def start_output_bias(self, setting: str, start: Callable[[Tensor], Tensor]) -> None:
        """Set the decoder's output bias to a function of the training images' pixel means.

        Raises:
            ValueError: if the data module does not know them, or the decoder does not end in a linear layer.
        """
        pixel_mean = self._of_data("pixel_mean", None)
        if pixel_mean is None:
            raise ValueError(
                f"model.output_bias: {setting!r} needs a data module with pixel_mean(), got none; "
                "set output_bias to 'zero'"
            )
        last = [m for m in self.decoder.modules() if not list(m.children())][-1]
        if not isinstance(last, nn.Linear):
            raise ValueError(  # noqa: TRY004 - the value of an argument is wrong, not its type
                f"model.output_bias: {setting!r} needs a decoder that ends in a linear layer, got one that ends in "
                f"{type(last).__name__}; set output_bias to 'zero'"
            )
        means = start(pixel_mean())
        with torch.no_grad():
            last.bias[: len(means)] = means

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser, and its schedule by the step.

        Raises:
            ValueError: as :meth:`make_optimizer`.
        """
        optimizer, scheduler = self.make_optimizer(self.trainer.estimated_stepping_batches)
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def make_optimizer(self, steps: float) -> tuple[Optimizer, LRScheduler | None]:
        """The optimiser and its schedule, for that many training steps.

        Raises:
            ValueError: if torch refuses their arguments, if a rate is negative, or if the schedule is shorter than the
                training: torch would stop it in the middle.
        """
        self.require_callables(optimizer=self._optimizer)
        try:
            optimizer = self._optimizer(self.parameters())
        except (ValueError, TypeError, RuntimeError) as error:
            raise ValueError(f"model.optimizer: {error}") from error
        if self._lr_scheduler is None:
            return optimizer, None
        try:
            scheduler = self._lr_scheduler(optimizer)
        except (ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:
            raise ValueError(f"model.lr_scheduler: {error}") from error
        scheduled, rate = getattr(scheduler, "total_steps", math.inf), scheduler.get_last_lr()[0]
        if not rate >= 0:
            raise ValueError(f"model.lr_scheduler: must start at a rate of 0 or more, got {rate:g}")
        if scheduled < steps:
            raise ValueError(
                f"model.lr_scheduler: its total_steps must be at least the {steps:,} training steps, got "
                f"{scheduled:,}; set both to the same number"
            )
        return optimizer, scheduler

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Drop the gradients; torch's own way tells a profiler of it, which takes longer than dropping them."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """As Lightning's, which looks through the trainer at each step also where nothing is to be clipped."""
        if gradient_clip_val is not None:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def noise(self, purpose: Purpose, step: int) -> torch.Generator:
        """Generator of one step's noise, the same in every process and after a resume."""
        return generator_for(torch.initial_seed(), purpose, step)

    def full_precision(self) -> torch.autocast:
        """Context of all evaluation: float32, whatever precision trains."""
        return torch.autocast(self.device.type, enabled=False)

    def maximise(self, objective: Tensor, bound: Tensor) -> dict[str, Tensor]:
        """What ``training_step`` returns: the loss is minus the mean of what is raised, and nothing else.

        Args:
            objective: what is raised, ``(B,)`` or its mean ``()``: the bound itself, or a surrogate with its value and
                an estimator's gradient.
            bound: the bound ``(B,)`` in nats, which is logged.
        """
        return {"loss": -objective.mean(), "bound": bound.detach().mean()}

    def on_validation_epoch_end(self) -> None:
        """Log the validation bound's mean and standard error."""
        values = self.gather(self.val_bound)
        bound = Quantity.mean_of("bound", values, kind="lower bound", split="val", samples=self.samples)
        self.log_dict({"val/bound": bound.value, "val/bound_stderr": bound.stderr})

    def keep_bound(self, values: Tensor, batch_idx: int) -> None:
        """Keep the bounds ``(B,)`` of a validation batch.

        Raises:
            NonFiniteError: if one of them is not finite.
        """
        wrong = (~values.isfinite()).nonzero()
        if len(wrong):
            raise NonFiniteError(
                f"val/bound: must be finite, got {float(values[wrong[0, 0]]):g} for image {int(wrong[0, 0])} of "
                f"validation batch {batch_idx} after step {self.trainer.global_step}; likely cause: training diverged, "
                "lower model.optimizer.lr or set trainer.gradient_clip_val; the last checkpoint stays as it was"
            )
        self.val_bound.update(values)

    def gather(self, metric: CatMetric) -> Tensor:
        """Per-image values of all processes; the metric starts anew."""
        values = torch.as_tensor(metric.compute())
        metric.reset()
        return values

    def remembered(self, batch_idx: int, compute: Callable[[], Tensor]) -> Tensor:
        """The results of a test batch ``(B, …)``: taken over from a test that was killed, or computed and kept."""
        if self.finished is None:
            return compute()
        name = f"batch{batch_idx}_rank{self.global_rank}of{self.trainer.world_size}"
        values = self.finished.recall(name)
        if values is None:
            values = compute()
            self.finished.keep(name, values)
        return values.to(self.device)

    def report(
        self, quantities: list[Quantity], per_example: dict[str, Tensor] | None = None, notes: list[str] | None = None
    ) -> None:
        """Keep a test's quantities and log them as ``test/<name>``."""
        self.evaluation, self.per_example, self.notes = quantities, per_example or {}, notes or []
        for q in quantities:
            tag = "test/" + re.sub(r"[^A-Za-z0-9]+", "_", q.name).strip("_")
            self.log_dict({tag: q.value, f"{tag}_stderr": q.stderr})
