"""Muon for matrices and convolutions and AdamW for the rest, in one optimizer with one state and one schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.adamw import adamw

from detr_mini.cpu_runtime import fast_bfloat16
from detr_mini.optim.groups import parameter_groups

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


GRAM_RATIO = 2
"""Matrices at least this many times as wide as high are orthogonalised through their Gram matrix."""


def orthogonalise(matrices: Float[Tensor, "n rows columns"], steps: int = 4) -> Float[Tensor, "n rows columns"]:
    """Push the singular values of each matrix towards 1, by Newton-Schulz iteration.

    With M = U S V^T the result is near U V^T: a quintic polynomial applied `steps` times (Jordan et al. 2024, "Muon").
    Computed in bfloat16 if the device multiplies faster in it, else in float32.
    """
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    if x.device.type != "cpu" or fast_bfloat16():
        x = x.bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    by_gram = x.dtype != torch.bfloat16 and x.shape[-1] >= GRAM_RATIO * x.shape[-2]
    x = (iterate_by_gram if by_gram else iterate)(x, steps)
    return (x if wide else x.mT).to(matrices.dtype)


def iterate(x: Float[Tensor, "n rows columns"], steps: int) -> Float[Tensor, "n rows columns"]:
    """X <- (a + b G + c G^2) X with G = X X^T, `steps` times."""
    a, b, c = NEWTON_SCHULZ
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(b * gram, gram, gram, alpha=c) @ x
    return x


def iterate_by_gram(x: Float[Tensor, "n rows columns"], steps: int) -> Float[Tensor, "n rows columns"]:
    """`iterate` with half the operations if X is wide, because all polynomials of one matrix commute.

    P = a + b G + c G^2 gives X <- P X and G <- P G P, so X itself is multiplied once, by the product of all P.
    It needs float32: no later look at X corrects the rounding of G.
    """
    a, b, c = NEWTON_SCHULZ
    gram, product = x @ x.mT, None
    for step in range(steps):
        p = torch.baddbmm(b * gram, gram, gram, alpha=c)
        p.diagonal(dim1=-2, dim2=-1).add_(a)
        product = p if product is None else p @ product
        if step < steps - 1:
            gram = p @ gram @ p
    return x if product is None else product @ x


class Muon(torch.optim.Optimizer):
    """Each parameter group has `rule="matrix"` or `rule="adamw"` (see `parameter_groups`).

    matrix: W -= lr * sqrt(max(1, rows / columns)) * orthogonalise(Nesterov momentum). A convolution's weight is a
    matrix of its output channels by the rest. Matrices of one shape are orthogonalised together.
    Weight decay is decoupled (W *= 1 - lr * decay) in both.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 0.02,
        momentum: float = 0.95,
        steps: int = 4,
        adamw_lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 1e-4,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "steps": steps, "betas": tuple(betas), "weight_decay": weight_decay}
        super().__init__(params, defaults)
        for group in self.param_groups:
            if group["rule"] == "adamw":
                group["fused"] = True  # torch then keeps the step counter on the parameter's device
                group["lr"] = adamw_lr * group.get("lr_scale", 1.0)
            else:
                group["lr"] = lr * group.get("lr_scale", 1.0)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update. `closure` recomputes the loss, as in torch's optimizers."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                (self._matrix_step if group["rule"] == "matrix" else self._adamw_step)(group, params)
        return loss

    def _matrix_step(self, group: dict[str, Any], params: list[Tensor]) -> None:
        grads = [p.grad for p in params if p.grad is not None]
        for p in params:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        momenta = [self.state[p]["momentum"] for p in params]
        torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
        updates = torch._foreach_lerp(grads, momenta, group["momentum"])  # Nesterov
        by_shape: dict[tuple[int, int], list[int]] = {}
        for index, p in enumerate(params):
            by_shape.setdefault((p.shape[0], p[0].numel()), []).append(index)
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        for (rows, columns), members in by_shape.items():
            stacked = torch.stack([updates[i].reshape(rows, columns) for i in members])
            step = orthogonalise(stacked, group["steps"]) * max(1.0, rows / columns) ** 0.5
            chosen = [params[i] for i in members]
            torch._foreach_add_(chosen, [s.view_as(p) for s, p in zip(step, chosen, strict=True)], alpha=-group["lr"])

    def _adamw_step(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for p in params:
            if "step" not in self.state[p]:
                self.state[p].update(
                    step=torch.zeros((), device=p.device), exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p)
                )
        states = [self.state[p] for p in params]
        adamw(
            params,
            [p.grad for p in params if p.grad is not None],
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [],
            [s["step"] for s in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
        )


def muon(
    model: nn.Module,
    *,
    lr: float = 0.02,
    momentum: float = 0.95,
    steps: int = 4,
    adamw_lr: float = 1e-3,
    betas: Sequence[float] = (0.9, 0.99),
    weight_decay: float = 1e-4,
    backbone_scale: float = 1.0,
    embedding_scale: float = 1.0,
    text_scale: float = 1.0,
) -> Muon:
    """`Muon` for a model: the matrix rule for matrices and convolutions, else AdamW (see `parameter_groups`)."""
    groups = parameter_groups(
        model, backbone_scale=backbone_scale, embedding_scale=embedding_scale, text_scale=text_scale,
        weight_decay=weight_decay,
    )  # fmt: skip
    return Muon(groups, lr=lr, momentum=momentum, steps=steps, adamw_lr=adamw_lr, betas=(betas[0], betas[1]))
