"""Conditional densities p(x|z): the decoder's output and x in, nats with every constant out.

Samples come first: the decoder's output is ``(*S, B, D)``, or ``(*S, 1, D)`` when the batch shares its
latent points; x is ``(B, D)``; a log-likelihood is ``(*S, B)``.
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus


class Bernoulli:
    """Independent Bernoulli pixels on logits.

        log p(x|z) = Σ_j x_j l_j − softplus(l_j),   l = decoder(z),  x_j ∈ {0, 1}

    It is a probability: nats per image, at most 0. On values other than 0 and 1 the expression is no
    log-probability of anything, which is why :attr:`support` is checked before training.
    """

    support = "binary"
    """What x must be: a data module whose ``values`` differ is refused."""

    def log_prob(self, logits: Tensor, x: Tensor) -> Tensor:
        """Log-probability of every x under every latent point.

        Shared points take one matrix product over all pairs instead of a ``(*S, B, D)`` tensor. Runs in
        float32 or better also under autocast: in bfloat16 the sums over D pixels are off by tenths of a nat.

        Args:
            logits: ``(*S, B, D)``, or ``(*S, 1, D)`` when the points are shared by the batch.
            x: zeros and ones, ``(B, D)``.

        Returns:
            ``(*S, B)``, nats.
        """
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            x = x.to(logits.dtype)
            shared = logits.shape[-2] == 1
            on = logits.squeeze(-2) @ x.mT if shared else (logits * x).sum(-1)  # (*S, B)
            return on - softplus(logits).sum(-1)

    def mean(self, logits: Tensor) -> Tensor:
        """E[x|z] = sigmoid(l), the Bernoulli means: same shape as ``logits``, in [0, 1]. Not a sample of x."""
        return logits.sigmoid()

    def sample(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x ~ p(x|z): zeros and ones in the shape of ``logits``."""
        return torch.bernoulli(self.mean(logits), generator=generator)
