"""What a trained module answers in a notebook: samples, codes, reconstructions and log p(x), with no graph kept."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lvm_lightning.data.loader import Batch
from lvm_lightning.densities import Proposal
from lvm_lightning.evaluation import Evaluator
from lvm_lightning.evaluation.evaluators import measure
from lvm_lightning.model import LatentVariableModel, Sample
from lvm_lightning.modules.skipping import SkippingModule
from lvm_lightning.support.randomness import Purpose, generator_for

TOGETHER = 1000
"""Examples that are measured together."""


class LogProb(NamedTuple):
    """log p(x) of some examples.

    Attributes:
        value: log p(x), or a lower bound on it, ``(n,)``, nats.
        error: how far it may still be off, ``(n,)``, nats.
        name: what the value is, as a test calls it.
    """

    value: Tensor
    error: Tensor
    name: str


class InferringModule(SkippingModule, ABC):
    """Abstract: a module that can be asked about ``(n, D)``, ``(n, H, W)`` or ``(D,)`` examples, tensors or arrays."""

    model: LatentVariableModel

    @abstractmethod
    def propose(self, x: Tensor) -> Proposal:
        """q(z|x) of each image, x ``(B, D)``."""

    @abstractmethod
    def evaluators(self) -> list[Evaluator]:
        """What a test measures."""

    @abstractmethod
    def full_precision(self) -> torch.autocast:
        """Context of all evaluation."""

    @torch.no_grad()
    def sample(self, count: int, seed: int = 0) -> Sample:
        """x ~ p(x), E[x|z] and z, ``(count, …)`` each.

        >>> PriorIWAE(data_dim=64).sample(5).x.shape
        torch.Size([5, 64])
        """
        with self.full_precision():
            return self.model.sample(count, generator_for(seed, "sample", 0))

    @torch.no_grad()
    def encode(self, x: Any) -> Tensor:
        """Where the proposals q(z|x) lie, ``(n, K)``: their means, where they have some in closed form.

        >>> GaussianVAE(latent_dim=3, data_dim=64).encode(torch.ones(5, 8, 8)).shape
        torch.Size([5, 3])
        """
        with self.full_precision():
            return torch.cat([self.code(part) for part in self._batches(x)])

    def code(self, batch: Batch) -> Tensor:
        """:meth:`encode` of a batch."""
        return self.propose(batch.x).location

    @torch.no_grad()
    def reconstruct(self, x: Any) -> Tensor:
        """E[x|z] at z = :meth:`encode` (x), ``(n, D)``.

        >>> GaussianVAE(latent_dim=3, data_dim=64).reconstruct(torch.ones(5, 8, 8)).shape
        torch.Size([5, 64])
        """
        with self.full_precision():
            return self.model.likelihood.mean(self.model.decode(self.encode(x)))

    @torch.no_grad()
    def log_prob(self, x: Any, seed: int = 0) -> LogProb:
        """log p(x) as a test leads with it: exact where there is a way, else the best lower bound, and its own error.

        >>> PriorIWAE(data_dim=64).log_prob(torch.ones(5, 8, 8)).name
        'log p(x) by quadrature'
        """

        def noise(purpose: Purpose, step: int) -> torch.Generator:
            return generator_for(seed, purpose, step)

        best = next(evaluator for evaluator in self.evaluators() if not evaluator.lacks(self.model))
        values, errors, name = list[Tensor](), list[Tensor](), ""
        for number, batch in enumerate(self._batches(x)):
            first, *others = measure([best], self.model, self.propose, batch, noise, number)
            known = [m.values for m in others if m.name.startswith("error of")]
            name = first.name
            values.append(first.values.double())
            errors.append(known[0].double() if known else torch.zeros_like(values[-1]))
        return LogProb(torch.cat(values), torch.cat(errors), name)

    def _batches(self, x: Any) -> list[Batch]:
        """The examples as the steps take them."""
        given = torch.as_tensor(x)
        x = Batch.of(given.unsqueeze(0) if given.ndim == 1 else given).x.to(self.device)
        return [Batch(part, torch.zeros(len(part), dtype=torch.uint8), 0, len(part)) for part in x.split(TOGETHER)]
