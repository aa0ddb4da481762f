"""Attention that costs less than all pairs: windows, low rank, random features, and exact attention in chunks.

All take queries, keys and values of shape (*batch, n, c), as in `core`. A padding mask is True on padding; the output
of a query on padding is meaningless but finite. Costs are given in the number of elements n, at fixed width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from detr_mini.attention.core import Similarity, attend, dot, is_zero, products, scaled_dot
from detr_mini.errors import ConfigError


def windowed_blocked(
    size: Sequence[int], window: int, global_tokens: int = 0, device: torch.device | None = None
) -> Bool[Tensor, "n n"]:
    """Where `windowed` does not look, as a mask for dense attention; this defines `windowed`."""
    axes = torch.meshgrid(*(torch.arange(side, device=device) for side in size), indexing="ij")
    places = torch.stack([axis.flatten() for axis in axes], -1)
    far = (places[:, None] - places[None]).abs().amax(-1) > window
    common = torch.arange(places.shape[0], device=device) < global_tokens
    return far & ~common[:, None] & ~common[None, :]


def windowed(
    query: Float[Tensor, "*batch n c"],
    key: Float[Tensor, "*batch n c"],
    value: Float[Tensor, "*batch n d"],
    padding_mask: Bool[Tensor, "*#batch n"] | None = None,
    *,
    window: int,
    global_tokens: int = 0,
    size: tuple[int, ...] | None = None,
    similarity: Similarity = scaled_dot,
) -> Float[Tensor, "*batch n d"]:
    """Each element attends to those at most `window` places away (Beltagy et al. 2020, "Longformer").

    The first `global_tokens` elements attend to all, and all attend to them. Cost O(n (window + global_tokens)).
    `size`: (h, w) if the elements are the cells of a map, row by row. A cell then looks at most `window` rows and
    columns away, at a cost of O(n window^2), and there can be no global tokens (ValueError). Masks: padding. Any other
    `blocked` would need the n x n matrix that this avoids.
    """
    n, batch, g = query.shape[-2], query.shape[:-2], global_tokens
    query, key = similarity(query, key)
    size = size or (n,)
    if window < 1 or math.prod(size) != n or (g and len(size) > 1):
        raise ValueError(f"windows of {window} with {g} global tokens do not fit {n} elements in a map of {size}")
    padding = query.new_zeros(*batch, n, dtype=torch.bool) if padding_mask is None else padding_mask.expand(*batch, n)
    if all(side <= 2 * window for side in size) or n <= g:
        outside = windowed_blocked(size, window, g, query.device)
        return attend(query, key, value, outside | padding[..., None, :], similarity=dot)
    windows = _Windows(size, window, batch)
    near_keys, near_values = (torch.cat([windows.everybody(x, g), windows.around(x)], -2) for x in (key, value))
    hidden = windows.around(padding[..., None], fill=True)[..., 0]
    blocked = windows.too_far(g, query.device) | hidden[..., None, :]
    common = padding[..., None, None, :g].expand(*blocked.shape[:-1], g)
    blocked = torch.cat([common, blocked], -1)
    answer = windows.back(attend(windows.own(query), near_keys, near_values, blocked, similarity=dot))
    if g:
        everywhere = attend(query[..., :g, :], key, value, padding[..., None, :], similarity=dot)
        answer = torch.cat([everywhere, answer[..., g:, :]], -2)
    return answer


class _Windows:
    """A map of `size` (any number of axes), cut into blocks of `window` per side, each with its neighbouring blocks."""

    def __init__(self, size: tuple[int, ...], window: int, batch: Sequence[int]) -> None:
        self.size, self.window, self.batch = size, window, tuple(batch)
        self.blocks = tuple(-(-side // window) for side in size)

    def _padded(self, x: Tensor, before: int, fill: float | bool) -> Tensor:
        sides = [
            (before, blocks * self.window - side + before) for side, blocks in zip(self.size, self.blocks, strict=True)
        ]
        flat = [0, 0, *(amount for pair in reversed(sides) for amount in pair)]
        return functional.pad(x.unflatten(-2, self.size), flat, value=fill)

    def _gathered(self, x: Tensor, reach: int) -> Tensor:
        """(*batch, *padded size, e) to (*batch, blocks, elements, e)."""
        first, axes = len(self.batch), len(self.size)
        for axis in range(first, first + axes):
            x = x.unfold(axis, reach, self.window)
        return x.movedim(first + axes, -1).flatten(first + axes, -2).flatten(first, first + axes - 1)

    def own(self, x: Float[Tensor, "*batch n e"]) -> Float[Tensor, "*batch blocks w e"]:
        return self._gathered(self._padded(x, 0, 0.0), self.window)

    def around(self, x: Tensor, fill: float | bool = 0.0) -> Tensor:
        return self._gathered(self._padded(x, self.window, fill), 3 * self.window)

    def everybody(self, x: Float[Tensor, "*batch n e"], count: int) -> Float[Tensor, "*batch blocks count e"]:
        return x[..., None, :count, :].expand(*self.batch, math.prod(self.blocks), count, x.shape[-1])

    def too_far(self, global_tokens: int, device: torch.device) -> Bool[Tensor, "blocks w around"]:
        """Which of the elements around are beyond the window, or are global tokens and so already included."""
        axes, total = len(self.size), None
        for axis, blocks in enumerate(self.blocks):
            start = torch.arange(blocks, device=device)[:, None, None] * self.window
            own = start + torch.arange(self.window, device=device)[:, None]
            other = start + torch.arange(-self.window, 2 * self.window, device=device)
            far = ((own - other).abs() > self.window) | (other < global_tokens)
            shape = [1] * (3 * axes)
            shape[axis], shape[axes + axis], shape[2 * axes + axis] = far.shape
            far = far.view(shape)
            total = far if total is None else total | far
        assert total is not None
        return total.flatten(2 * axes).flatten(axes, 2 * axes - 1).flatten(0, axes - 1)

    def back(self, x: Float[Tensor, "*batch blocks w e"]) -> Float[Tensor, "*batch n e"]:
        first, axes = len(self.batch), len(self.size)
        x = x.unflatten(first, self.blocks).unflatten(first + axes, (self.window,) * axes)
        order = [first + axis + shift for axis in range(axes) for shift in (0, axes)]
        x = x.permute(*range(first), *order, x.dim() - 1)
        for axis in range(axes):
            x = x.flatten(first + axis, first + axis + 1).narrow(first + axis, 0, self.size[axis])
        return x.flatten(first, first + axes - 1)


class Linformer(nn.Module):
    """Dense attention on keys and values projected from n elements to `rank` (Wang et al. 2020). Cost O(n rank).

    The projection has a weight for each position, so `size` is the largest input: (n,) for a sequence, (h, w) for a
    map. Masks: padding, whose keys and values get weight zero. Any other `blocked` has no meaning, since a query
    attends to mixtures of elements.
    """

    def __init__(self, size: Sequence[int], rank: int) -> None:
        super().__init__()
        std = math.prod(size) ** -0.5
        self.key_projection = nn.Parameter(torch.randn(rank, *size) * std)
        self.value_projection = nn.Parameter(torch.randn(rank, *size) * std)

    def forward(
        self,
        query: Float[Tensor, "b h m c"],
        key: Float[Tensor, "b h n c"],
        value: Float[Tensor, "b h n d"],
        padding_mask: Bool[Tensor, "b n"] | None = None,
        size: tuple[int, ...] | None = None,
        similarity: Similarity = scaled_dot,
    ) -> Float[Tensor, "b h m d"]:
        """`size`: (h, w) if the elements are the cells of a map, row by row. ConfigError if it exceeds the layer's."""
        size, largest = size or (key.shape[-2],), self.key_projection.shape[1:]
        if len(size) != len(largest) or any(side > most for side, most in zip(size, largest, strict=True)):
            raise ConfigError(
                f"an input of size {size} exceeds this Linformer's largest size {tuple(largest)}; use smaller images, "
                "or train with a larger model.encoder.size"
            )
        keys = self._mixed(self.key_projection, key, padding_mask, size)
        values = self._mixed(self.value_projection, value, padding_mask, size)
        return attend(query, keys, values, similarity=similarity)

    @staticmethod
    def _mixed(projection: Tensor, x: Tensor, padding_mask: Tensor | None, size: tuple[int, ...]) -> Tensor:
        shares = projection[(slice(None), *map(slice, size))].flatten(1)
        if padding_mask is not None:
            shares = shares.masked_fill(padding_mask[:, None, None, :], 0.0)
        return shares.to(x.dtype) @ x


def orthogonal_features(features: int, width: int, generator: torch.Generator) -> Float[Tensor, "{features} {width}"]:
    """Random directions, orthogonal within each block of `width`, with the lengths of normally distributed vectors."""
    if torch.get_default_device().type == "meta":  # only the shape matters; a CPU generator cannot draw on it
        return torch.empty(features, width, dtype=torch.float64)
    blocks = []
    for _ in range(-(-features // width)):
        q, r = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))
        blocks.append((q * r.diagonal().sign()).T)
    directions = torch.cat(blocks)[:features]
    lengths = torch.randn(features, width, generator=generator, dtype=torch.float64).norm(dim=1, keepdim=True)
    return directions * lengths


def performer(
    query: Float[Tensor, "*batch m c"],
    key: Float[Tensor, "*batch n c"],
    value: Float[Tensor, "*batch n d"],
    features: Float[Tensor, "r c"],
    padding_mask: Bool[Tensor, "*#batch n"] | None = None,
    similarity: Similarity = scaled_dot,
) -> Float[Tensor, "*batch m d"]:
    """exp(q k) = E[phi(q) phi(k)], phi(x) = exp(w x - |x|^2 / 2) over random w (Choromanski et al. 2021, lemma 1).

    So phi(K)^T V is summed once for all queries, at a cost of O((m + n) r). The error falls as 1 / sqrt(r) and grows
    with exp(|q + k|^2): long vectors need many features. Computed in float32 at least. Masks: padding, left out of the
    sums. Any other `blocked` would need the m x n weights, which are never computed.
    """
    precise = torch.promote_types(query.dtype, torch.float32)
    query, key = similarity(query.to(precise), key.to(precise))
    # a factor that all features of a query share cancels, and so does one that all keys share
    of_query = _log_features(query, features.to(precise))
    of_query = of_query.sub_(of_query.detach().amax(-1, keepdim=True)).exp_()
    of_key = _log_features(key, features.to(precise))
    if padding_mask is not None:
        of_key = of_key.masked_fill_(padding_mask[..., None], -torch.inf)
    if is_zero(of_key.shape[-2]):
        return value.new_zeros(*query.shape[:-1], value.shape[-1])
    largest = of_key.detach().amax((-2, -1), keepdim=True)
    of_key = of_key.sub_(largest.masked_fill(largest == -torch.inf, 0.0)).exp_()
    weighted = of_query @ (of_key.transpose(-1, -2) @ value.to(precise))
    total = of_query @ of_key.sum(-2)[..., None]
    return (weighted / total.clamp(min=torch.finfo(precise).tiny)).to(value.dtype)


def _log_features(x: Float[Tensor, "*batch n c"], features: Float[Tensor, "r c"]) -> Float[Tensor, "*batch n r"]:
    return (x @ features.T).sub_(x.square().sum(-1, keepdim=True) / 2)


def chunked(
    query: Float[Tensor, "*batch m c"],
    key: Float[Tensor, "*batch n c"],
    value: Float[Tensor, "*batch n d"],
    blocked: Bool[Tensor, "..."] | None = None,
    *,
    chunk: int = 512,
    similarity: Similarity = scaled_dot,
) -> Float[Tensor, "*batch m d"]:
    """Exact attention, a block of `chunk` queries by `chunk` keys at a time (Rabe & Staats 2021). Masks: any `blocked`.

    Time O(m n), memory O(m + n). With gradients the memory is O(m + chunk n): a block's weights are discarded and
    computed again in the backward pass.
    """
    precise = torch.promote_types(query.dtype, torch.float32)
    query, key = similarity(query.to(precise), key.to(precise))
    if blocked is not None:
        blocked = blocked.expand(*query.shape[:-1], key.shape[-2])
    learning = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    some_queries = partial(checkpoint, _some_queries, use_reentrant=False) if learning else _some_queries
    answers = []
    for start in range(0, max(query.shape[-2], 1), chunk):
        part = None if blocked is None else blocked[..., start : start + chunk, :]
        answers.append(some_queries(query[..., start : start + chunk, :], key, value, part, chunk))
    return torch.cat(answers, -2)


def _some_queries(query: Tensor, key: Tensor, value: Tensor, blocked: Tensor | None, chunk: int) -> Tensor:
    """Softmax over keys in chunks: the sums are kept relative to the largest similarity so far."""
    query = query * math.log2(math.e)  # since 2^x is several times faster than e^x
    largest = query.new_full((*query.shape[:-1], 1), torch.finfo(query.dtype).min)
    total, answer = torch.zeros_like(largest), query.new_zeros(*query.shape[:-1], value.shape[-1])
    for start in range(0, key.shape[-2], chunk):
        keys, values = (x[..., start : start + chunk, :] for x in (key, value))
        similarity = products(query, keys)
        if blocked is not None:
            similarity = similarity.masked_fill(blocked[..., start : start + chunk], -torch.inf)
        former, largest = largest, torch.maximum(largest, similarity.detach().amax(-1, keepdim=True))
        weights, fade = similarity.sub_(largest).exp2_(), (former - largest).exp2_()
        total = total * fade + weights.sum(-1, keepdim=True)
        answer = answer * fade + (weights.to(value.dtype) @ values)
    return (answer / total.clamp(min=torch.finfo(total.dtype).tiny)).to(value.dtype)
