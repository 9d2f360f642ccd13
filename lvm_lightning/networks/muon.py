"""An optimiser that torch has in two parts."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lvm_lightning.support.argtypes import ClosedUnitInterval, NonNegativeFloat


class MuonWithAdam(Optimizer):
    """Muon for the weight matrices and Adam for everything else, under one learning rate.

    A matrix W moves by −0.2 η √max(W.shape) U Vᵀ − η λ W, where U S Vᵀ is the singular value decomposition of its
    momentum (approximately: five Newton–Schulz iterations in bfloat16). The factor gives the update the root mean
    square that Adam's typically has, so that one rate η serves both. A step costs some milliseconds more than Adam's,
    whatever the batch.

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

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Move all parameters, after ``closure`` has computed their gradients; its loss, where there is one."""
        matrices, others = self._parts
        loss = matrices.step(closure)
        others.step()
        return loss
