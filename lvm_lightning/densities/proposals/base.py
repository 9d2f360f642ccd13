"""What every proposal offers."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Proposal(ABC):
    """Abstract q(z|x) for the examples of one batch."""

    @property
    @abstractmethod
    def location(self) -> Tensor:
        """Where q(z|x) lies, ``(B, K)``, for pictures: its mean where that has a closed form."""

    @abstractmethod
    def rsample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Reparameterised samples.

        Args:
            noise: standard-normal ε, ``(*S, B, K)``.

        Returns:
            z ``(*S, B, K)``, and log q(z|x) ``(*S, B)`` in nats; both are functions of the encoder's parameters.
        """

    @abstractmethod
    def stopped_log_prob(self, z: Tensor) -> Tensor:
        """log q(z|x) at any z, ``(*S, B, K) → (*S, B)``, nats; its gradient reaches z, and not the encoder."""

    @abstractmethod
    def widened(self, factor: float) -> "Proposal":
        """The same with its standard deviations multiplied by a factor: importance weights that are less heavy."""

    def kl_per_dimension(self) -> Tensor | None:
        """KL(q(z_k|x) ‖ N(0, 1)) in nats, ``(B, K)``; None where it has no closed form."""
        return None


class Posterior(nn.Module, ABC):
    """Abstract last layer of an encoder: features h → q(z|x).

    Attributes:
        features: how many numbers of each example it takes from the encoder.
        reparameterised: whether z is a differentiable function of noise, which every gradient estimator needs.
        factorised: whether q(z|x) = Π_k q(z_k|x) with a closed-form KL from the standard normal.
    """

    features: int
    reparameterised: bool = True
    factorised: bool

    @abstractmethod
    def forward(self, h: Tensor) -> Proposal:
        """Features ``(B, features)`` → the proposal, in float32 or better whatever precision h has."""
