"""Muon for matrices and convolutions and AdamW for the rest, in one optimizer with one state and one schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.adamw import adamw

from detr_mini.cpu_runtime import fast_bfloat16
from detr_mini.optim.groups import parameter_groups

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
GRAM_RATIO = 2
"""Matrices at least this many times as wide as high are orthogonalised through their Gram matrix."""
PADDED = 4.0
"""On a GPU, where a step costs a time for each operation: how many times as large padding may make a matrix."""


def orthogonalise(matrices: Float[Tensor, "n rows columns"], steps: int = 4) -> Float[Tensor, "n rows columns"]:
    """Push the singular values of each matrix towards 1, by Newton-Schulz iteration.

    With M = U S V^T the result is near U V^T: a quintic polynomial applied `steps` times (Jordan et al. 2024, "Muon").
    Computed in bfloat16 if the device multiplies faster in it, else in float32.
    """
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    emulated = x.device.type == "cuda" and not gpu_has_bfloat16()
    if not emulated and (x.device.type != "cpu" or fast_bfloat16()):
        x = x.bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    by_gram = x.dtype != torch.bfloat16 and x.shape[-1] >= GRAM_RATIO * x.shape[-2]
    x = (iterate_by_gram if by_gram else iterate)(x, steps)
    return (x if wide else x.mT).to(matrices.dtype)


@cache
def gpu_has_bfloat16() -> bool:
    """Whether the GPU multiplies in bfloat16. Those before Ampere (V100, T4) only emulate it."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


def orthogonalise_together(
    stacks: Sequence[Float[Tensor, "_ _ _"]], steps: int = 4, padded: float = PADDED
) -> list[Float[Tensor, "_ _ _"]]:
    """`orthogonalise` of each stack, in fewer operations: stacks of matrices of similar size are padded to one size.

    Zero rows and columns stay zero and leave the singular values as they are, so only the rounding changes.
    """
    lying = [stack if stack.shape[1] <= stack.shape[2] else stack.mT for stack in stacks]
    found = list(lying)
    for rows, columns, members in blocks([(x.shape[1], x.shape[2]) for x in lying], padded):
        parts = [lying[i] for i in members]
        grown = [x if x.shape[1:] == (rows, columns) else _grown(x, rows, columns) for x in parts]
        block = orthogonalise(torch.cat(grown) if len(grown) > 1 else grown[0], steps)
        for i, x in zip(members, block.split([len(part) for part in parts]), strict=True):
            found[i] = x[:, : lying[i].shape[1], : lying[i].shape[2]]
    return [x if x.shape == stack.shape else x.mT for x, stack in zip(found, stacks, strict=True)]


def _grown(x: Tensor, rows: int, columns: int) -> Tensor:
    return functional.pad(x, (0, columns - x.shape[2], 0, rows - x.shape[1]))


def blocks(sizes: Sequence[tuple[int, int]], padded: float) -> list[tuple[int, int, list[int]]]:
    """Rows and columns of each block, and which of the `sizes` are in it, each at least 1 / `padded` of its area."""
    found: list[tuple[int, int, list[int]]] = []
    for index in sorted(range(len(sizes)), key=sizes.__getitem__, reverse=True):
        rows, columns = sizes[index]
        fit = [block for block in found if columns <= block[1] and block[0] * block[1] <= padded * rows * columns]
        if fit:
            min(fit, key=lambda block: block[0] * block[1])[2].append(index)
        else:
            found.append((rows, columns, [index]))
    return found


def iterate(x: Float[Tensor, "n rows columns"], steps: int) -> Float[Tensor, "n rows columns"]:
    """X <- (a + b G + c G^2) X with G = X X^T, `steps` times."""
    a, b, c = NEWTON_SCHULZ
    for _ in range(steps):
        gram = x @ x.mT
        p = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, p, x, beta=a)
    return x


def iterate_by_gram(x: Float[Tensor, "n rows columns"], steps: int) -> Float[Tensor, "n rows columns"]:
    """`iterate` with half the operations if X is wide, because all polynomials of one matrix commute.

    P = a + b G + c G^2 gives X <- P X and G <- P G P, so X itself is multiplied once, by the product of all P.
    It needs float32: no later look at X corrects the rounding of G.
    """
    a, b, c = NEWTON_SCHULZ
    gram, product = x @ x.mT, None
    for step in range(steps):
        p = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        p.diagonal(dim1=-2, dim2=-1).add_(a)
        product = p if product is None else p @ product
        if step < steps - 1:
            gram = p @ gram @ p
    return x if product is None else product @ x


def _as_matrix(update: Tensor, weight: Tensor) -> Float[Tensor, "rows columns"]:
    """Output channels by the rest, in the order in which `weight` lies in memory: the order changes no result."""
    return (update if weight.is_contiguous() else update.movedim(1, -1)).flatten(1)


def _as_weight(matrix: Float[Tensor, "rows columns"], weight: Tensor) -> Tensor:
    """The inverse of `_as_matrix`."""
    if weight.is_contiguous():
        return matrix.view_as(weight)
    rows, inputs, *rest = weight.shape
    return matrix.view(rows, *rest, inputs).movedim(-1, 1)


class Muon(torch.optim.Optimizer):
    """Each parameter group has `rule="matrix"` or `rule="adamw"` (see `parameter_groups`).

    matrix: W -= lr * sqrt(max(1, rows / columns)) * orthogonalise(Nesterov momentum). A convolution's weight is a
    matrix of its output channels by the rest. Matrices of one shape are orthogonalised together, on a GPU also those of
    similar shapes. Weight decay is decoupled (W *= 1 - lr * decay) in both.
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
        stacks: list[tuple[dict[str, Any], list[Tensor], Tensor]] = []
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params and group["rule"] == "matrix":
                stacks += [(group, *stack) for stack in self._updates(group, params)]
            elif params:
                self._adamw_step(group, params)
        self._matrix_step(stacks)
        return loss

    def _updates(self, group: dict[str, Any], params: list[Tensor]) -> Iterator[tuple[list[Tensor], Tensor]]:
        """The parameters of each shape, and their updates as a stack of matrices. The weights are decayed."""
        grads = [p.grad for p in params if p.grad is not None]
        for p in params:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        momenta = [self.state[p]["momentum"] for p in params]
        torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
        updates = torch._foreach_lerp(grads, momenta, group["momentum"])  # Nesterov
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        by_shape: dict[tuple[int, int], list[int]] = {}
        for index, p in enumerate(params):
            by_shape.setdefault((p.shape[0], p[0].numel()), []).append(index)
        for members in by_shape.values():
            yield [params[i] for i in members], torch.stack([_as_matrix(updates[i], params[i]) for i in members])

    def _matrix_step(self, stacks: Sequence[tuple[dict[str, Any], list[Tensor], Tensor]]) -> None:
        """Add the orthogonalised updates of all groups."""
        for steps, device in dict.fromkeys((group["steps"], stack.device) for group, _, stack in stacks):
            of_these = [entry for entry in stacks if entry[0]["steps"] == steps and entry[2].device == device]
            padded = 1.0 if device.type == "cpu" else PADDED
            found = orthogonalise_together([stack for *_, stack in of_these], steps, padded)
            by_rate: dict[float, tuple[list[Tensor], list[Tensor]]] = {}
            for (group, params, _), matrices in zip(of_these, found, strict=True):
                rate = group["lr"] * max(1.0, matrices.shape[1] / matrices.shape[2]) ** 0.5
                weights, moves = by_rate.setdefault(rate, ([], []))
                weights += params
                moves += [_as_weight(matrix, p) for matrix, p in zip(matrices, params, strict=True)]
            for rate, (weights, moves) in by_rate.items():
                torch._foreach_add_(weights, moves, alpha=-rate)

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
