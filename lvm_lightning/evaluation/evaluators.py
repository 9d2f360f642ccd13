"""What is measured of a model: each evaluator says what it needs, and serves every model that has it."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import torch

from lvm_lightning.data.loader import Batch
from lvm_lightning.densities import Proposal
from lvm_lightning.evaluation.report import Measured
from lvm_lightning.model import LatentVariableModel, Terms
from lvm_lightning.support.randomness import Purpose

Propose = Callable[[torch.Tensor], Proposal]
"""x ``(B, D)`` → q(z|x)."""
Noise = Callable[[Purpose, int], torch.Generator]

Budget = Literal["quick", "standard", "thorough"]
"""How much a test spends on log p(x)."""

GROUP = 125
"""Images that are measured at a time: of more, glibc 2.36 does not give back what thousands of samples take."""


class Given(NamedTuple):
    """What an evaluator looks at.

    Attributes:
        model: p(x, z).
        q: the proposals q(z|x) of some examples.
        batch: these examples.
        generator: CPU generator of the noise. Evaluators that take the same rows for the same purpose draw from one
            generator, one after the other.
    """

    model: LatentVariableModel
    q: Proposal
    batch: Batch
    generator: torch.Generator

    def terms(self, samples: int, q: Proposal | None = None) -> Terms:
        """The three densities at S draws from q, ``(S, B)`` each, nats; see :meth:`LatentVariableModel.terms`."""
        return self.model.terms(self.batch.x, q or self.q, samples, self.generator, self.batch.rows)


class Evaluator:
    """Labelled measurements of the examples of a batch; by itself it measures nothing.

    Attributes:
        rows: how many examples it takes at a time; None takes a batch as it comes.
        purpose: what its noise is for.
    """

    rows: int | None = GROUP
    purpose: Purpose = "evaluator"

    def lacks(self, model: LatentVariableModel) -> str:
        """What the model does not have of what this needs, in words; nothing if it serves the model."""
        return ""

    def measure(self, given: Given) -> Iterator[Measured]:
        """Measurements of some examples."""
        return iter(())

    def derive(self, found: Mapping[str, Measured]) -> Iterable[Measured]:
        """What follows from the measurements of all examples, those of other evaluators too."""
        return ()

    def notes(self, found: Mapping[str, Measured]) -> list[str]:
        """What a reader should know before believing a number."""
        return []


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """Settings of a test; none of them has a part in training.

    Attributes:
        samples: S of the importance-weighted bound L_S; None is the module's own number.
        widen: what L_S multiplies the standard deviations of q(z|x) by.
        spacing: distance of the quadrature's grid points where K = 2.
        log_p: how much is spent on log p(x) of a model with an encoder.
        evaluators: further evaluators.
    """

    samples: int | None = None
    widen: float = 1.0
    spacing: float = 0.05
    log_p: Budget = "standard"
    evaluators: Sequence[Evaluator] = ()


def in_place(own: Sequence[Evaluator], given: Sequence[Evaluator]) -> list[Evaluator]:
    """A test's own evaluators, those of a class that is given replaced by the given ones, and then the other given."""
    placed = [e for mine in own for e in ([g for g in given if type(g) is type(mine)] or [mine])]
    return list(dict.fromkeys([*placed, *given]))


def measure(
    evaluators: list[Evaluator], model: LatentVariableModel, propose: Propose, batch: Batch, noise: Noise, number: int
) -> list[Measured]:
    """What all evaluators find of a batch, in float32 or better.

    Args:
        evaluators: those that serve the model.
        model: p(x, z).
        propose: x → q(z|x).
        batch: the examples.
        noise: purpose and step → generator.
        number: of the batch.
    """
    found: list[Measured] = []
    keys = dict.fromkeys((evaluator.rows, evaluator.purpose) for evaluator in evaluators)
    with torch.autocast(batch.x.device.type, enabled=False):
        for rows, purpose in keys:
            together, parts = [e for e in evaluators if (e.rows, e.purpose) == (rows, purpose)], []
            for first, group in batch.groups(rows or batch.total):
                generator = noise(purpose, (number << 32) + first if rows else number)
                given = Given(model, propose(group.x), group, generator)
                parts.append([measured for evaluator in together for measured in evaluator.measure(given)])
            found += [Measured.joined(same) for same in zip(*parts, strict=True)]
    return found
