"""Networks, tensors in and tensors out, and an optimiser for them that torch has in two parts."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

from lvm_lightning.networks.activations import Activation, activation_of
from lvm_lightning.support.argtypes import ClosedUnitInterval, NonNegativeFloat, PositiveInt
from lvm_lightning.support.processor import has_bfloat16


class MLP(nn.Sequential):
    """Multi-layer perceptron, ``(*, in_features) → (*, out_features)``, with a linear last layer.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        hidden: widths of the hidden layers; none makes the network linear.
        activation: name of the ``torch.nn`` activation after each hidden layer.
    """

    def __init__(
        self,
        in_features: PositiveInt,
        out_features: PositiveInt,
        hidden: Sequence[PositiveInt] = (512, 512, 512),
        activation: Activation = "ELU",
    ) -> None:
        widths = [in_features, *hidden]
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), activation_of(activation)]
        super().__init__(*layers, nn.Linear(widths[-1], out_features))


SIDE = 28
CODE = 32
"""Channels of the 1 × 1 image between the convolutional encoder's last pool and the decoder's first layer."""


def _conv(fan_in: int, fan_out: int, kernel: int, padding: int = 0) -> list[nn.Module]:
    return [nn.Conv2d(fan_in, fan_out, kernel, padding=padding), nn.LeakyReLU()]


def _up() -> nn.Module:
    return nn.Upsample(scale_factor=2, mode="bilinear")


class ConvEncoder(nn.Sequential):
    """Convolutional encoder of 28 × 28 images, ``(B, 784) → (B, out_features)``.

    28 → 26 → 24, pool 12 → 10 → 8, pool 4 → 3 → 2, pool 1: 8, 16 and 32 channels, two convolutions each with a
    LeakyReLU behind them, then one linear layer.

    Args:
        in_features: 784.
        out_features: width of the output.

    Raises:
        ValueError: if ``in_features`` is not 784.
    """

    def __init__(self, in_features: PositiveInt, out_features: PositiveInt) -> None:
        if in_features != SIDE**2:
            raise ValueError(f"ConvEncoder: serves images of 784 pixels, got {in_features}; use MLP")
        super().__init__(
            nn.Unflatten(-1, (1, SIDE, SIDE)),
            *_conv(1, 8, 3), *_conv(8, 8, 3), nn.MaxPool2d(2),
            *_conv(8, 16, 3), *_conv(16, 16, 3), nn.MaxPool2d(2),
            *_conv(16, 32, 2), *_conv(32, CODE, 2), nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(CODE, out_features),
        )  # fmt: skip
        self.to(memory_format=torch.channels_last)  # with so few channels up to 4 times faster


class ConvDecoder(nn.Module):
    """Convolutional decoder to 28 × 28 images, ``(*, K) → (*, P·784)`` for P parameters a pixel, all of one before
    the next.

    1, up 2 → 4 → 6, up 12 → 14 → 14, up 28 → 28: 32, 16, 8 and P channels, bilinear upsampling, LeakyReLU between
    the convolutions.

    Args:
        in_features: number K of latent dimensions.
        out_features: 784 P.

    Raises:
        ValueError: if ``out_features`` is not a multiple of 784.
    """

    def __init__(self, in_features: PositiveInt, out_features: PositiveInt) -> None:
        if out_features % SIDE**2:
            raise ValueError(f"ConvDecoder: serves images of 784 pixels, got {out_features} outputs; use MLP")
        super().__init__()
        self.layers = nn.Sequential(
            *_conv(in_features, CODE, 1), _up(),
            *_conv(CODE, 16, 3, padding=2), *_conv(16, 16, 3, padding=2), _up(),
            *_conv(16, 8, 3, padding=2), *_conv(8, 8, 3, padding=1), _up(),
            nn.Conv2d(8, out_features // SIDE**2, 3, padding=1),
            nn.Flatten(),
        )  # fmt: skip
        self.to(memory_format=torch.channels_last)

    def forward(self, z: Tensor) -> Tensor:
        """Latent points ``(*, K)`` → parameters ``(*, P·784)``."""
        decoded = cast(Tensor, self.layers(z.reshape(-1, z.shape[-1], 1, 1)))
        return decoded.view(*z.shape[:-1], decoded.shape[-1])


class MuonWithAdam(Optimizer):
    """Muon for the weight matrices and Adam for everything else, under one learning rate.

    A matrix W moves by −0.2 η √max(W.shape) U Vᵀ − η λ W, where U S Vᵀ is the singular value decomposition of its
    momentum (approximately: five Newton–Schulz iterations, in bfloat16, and in float32 on a processor that has no
    bfloat16 products). The factor gives the update the root mean square that Adam's typically has, so that one rate η
    serves both. A step costs some milliseconds more than Adam's, whatever the batch.

    Args:
        params: the parameters; those of two dimensions are matrices.
        lr: learning rate η.
        momentum: of Muon, with Nesterov's look ahead.
        betas: of Adam.
        weight_decay: λ, of the matrices alone.

    Raises:
        ValueError: if torch refuses an argument, or if every parameter is a matrix, or none.

    Reference:
        Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024; Liu et al., Muon is Scalable for
        LLM Training, 2025, section 2.2 (the factor).
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: NonNegativeFloat = 0.008,
        momentum: ClosedUnitInterval = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: NonNegativeFloat = 0.0,
    ) -> None:
        params = list(params)
        matrices, others = [p for p in params if p.ndim == 2], [p for p in params if p.ndim != 2]
        if not (matrices and others):
            raise ValueError(
                f"MuonWithAdam: needs weight matrices and other parameters, got {len(matrices)} and {len(others)}; "
                "use torch.optim.Adam"
            )
        muon = torch.optim.Muon(matrices, lr, weight_decay, momentum, adjust_lr_fn="match_rms_adamw")
        self._parts: tuple[Optimizer, Optimizer] = (muon, torch.optim.Adam(others, lr, betas, fused=True))
        super().__init__([group for part in self._parts for group in part.param_groups], {"lr": lr})
        self._share()

    def _share(self) -> None:
        """Schedules and checkpoints see one optimiser: its groups and its state are those of the parts."""
        for part, group in zip(self._parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, for the parts too."""
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Move all parameters, after ``closure`` has computed their gradients; its loss, where there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        device: torch.device = self.param_groups[0]["params"][0].device
        with nullcontext() if has_bfloat16(device.type) else InFloat32():
            self._parts[0].step()
        self._parts[1].step()
        return loss


class InFloat32(TorchFunctionMode):
    """Context in which torch makes float32 of what it is asked to make bfloat16: its Muon has no argument for that."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") is torch.bfloat16:
            kwargs["dtype"] = torch.float32
        return func(*args, **kwargs)
