"""Programs of `torch.export`, read only where they can do nothing but compute with tensors.

`torch.export.load` trusts a file: it unpickles weights and objects that say so, evaluates formulas of sizes as Python,
looks operators up by any name inside torch, and runs guards as code. Therefore every entry, name and formula is checked
before torch sees the file, and what is not on the lists here is refused.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from typing import Any

import torchvision  # noqa: F401  (the operator torchvision::nms)

PROPERTIES = "detr_mini.json"
"""The extra file that holds the metadata."""
ENTRY = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|version|models/model\.json|"
    rf"data/(weights/(weight_\d+|model_weights_config\.json)|constants/(tensor_\d+|model_constants_config\.json)|"
    rf"sample_inputs/model\.pt)|extra/{re.escape(PROPERTIES)}"
)
EMPTY = ("data/sample_inputs/model.pt",)
"""An entry that torch unpickles, unless it is empty."""
ATEN = """
__and__.Tensor __or__.Tensor _assert_scalar.default _assert_tensor_metadata.default _upsample_bicubic2d_aa.vec
_upsample_bilinear2d_aa.default abs.default add.Tensor add_.Tensor alias.default all.dim amax.default any.dim
arange.default arange.start arange.start_step argsort.default argsort.stable avg_pool2d.default batch_norm.default
bitwise_and.Tensor bitwise_not.default bitwise_or.Tensor bmm.default broadcast_tensors.default cat.default
chunk.default clamp.default clamp_min.default clone.default concat.default contiguous.default conv2d.default
conv2d.padding copy_.default cos.default cumsum.default detach.default detach_.default div.Scalar div.Tensor
div.Tensor_mode div_.Tensor dropout.default dropout_.default einsum.default embedding.default eq.Scalar eq.Tensor
erf.default exp.default exp_.default expand.default expand_as.default eye.default flatten.using_ints flip.default
floor.default floor_divide.default full.default full_like.default gather.default ge.Scalar ge.Tensor gelu.default
gelu_.default grid_sampler.default group_norm.default gt.Scalar gt.Tensor hardsigmoid.default hardsigmoid_.default
hardswish.default hardswish_.default hardtanh.default hardtanh_.default index.Tensor index_fill.int_Scalar
index_select.default instance_norm.default interpolate.default item.default layer_norm.default le.Scalar le.Tensor
leaky_relu.default lift_fresh_copy.default linear.default linspace.default log.default log1p.default log_softmax.int
logical_and.default logical_not.default logical_or.default logsumexp.default lt.Scalar lt.Tensor masked_fill.Scalar
masked_fill.Tensor matmul.default max.default max.dim max_pool2d.default maximum.default mean.default mean.dim
meshgrid.indexing min.default min.dim minimum.default movedim.int mul.Scalar mul.Tensor mul_.Tensor ne.Scalar
ne.Tensor neg.default new_full.default new_ones.default new_zeros.default norm.ScalarOpt_dim numpy_T.default
ones.default ones_like.default outer.default pad.default permute.default pixel_shuffle.default pixel_unshuffle.default
pow.Scalar pow.Tensor_Scalar prod.dim_int promote_types.default reciprocal.default relu.default relu_.default
remainder.Scalar remainder.Tensor repeat.default repeat_interleave.self_int reshape.default rms_norm.default
roll.default round.default rsqrt.default rsub.Scalar scaled_dot_product_attention.default scatter.src scatter.value
select.int sigmoid.default sigmoid_.default sign.default silu.default silu_.default sin.default slice.Tensor
softmax.int softplus.default sort.default sort.stable split.Tensor split_with_sizes.default sqrt.default
square.default squeeze.default squeeze.dim stack.default std.dim sub.Tensor sub_.Tensor sum.default sum.dim_IntList
sym_size.int t.default tanh.default tanh_.default tile.default to.device to.dtype to.dtype_layout topk.default
transpose.int tril.default triu.default type_as.default unbind.int unflatten.int unfold.default unsqueeze.default
upsample_bicubic2d.vec upsample_bilinear2d.default upsample_bilinear2d.vec upsample_nearest2d.default
upsample_nearest2d.vec view.default view_as.default where.Scalar where.ScalarOther where.ScalarSelf where.self
zeros.default zeros_like.default
""".split()  # noqa: SIM905
"""Operators that read tensors and give tensors. torch has others, which read and write files."""
SYMBOLIC = "add and_ eq floordiv ge getitem gt le lt mod mul ne neg or_ pow sub truediv".split()  # noqa: SIM905
OPERATORS = {
    *(f"torch.ops.aten.{name}" for name in ATEN), *(f"_operator.{name}" for name in SYMBOLIC),
    *(f"torch.sym_{name}" for name in ("float", "int", "ite", "max", "min", "not")),
    "torch.ops.aten.sym_constrain_range.default", "torch.ops.aten.sym_constrain_range_for_size.default",
    "torch.ops.torchvision.nms.default", "torch.ops.higher_order.wrap_with_autocast",
}  # fmt: skip
SYMBOL = re.compile(r"Symbol\('[su]\d{1,6}'(, (positive|integer)=True)*\)")
FORMULA = re.compile(
    r"((Integer|Add|Mul|Min|Max|Mod|PythonMod|FloorDiv|CeilDiv|IntTrueDiv|FloatTrueDiv|Pow|Eq|Ne|Equality|Unequality|GreaterThan|LessThan|"
    r"StrictGreaterThan|StrictLessThan|And|Or|Not)(?=\()|true|false|-?\d{1,12}|[(), ])*"
)
MOST_POWERS, LONGEST_FORMULA = 8, 20_000
NAME = re.compile(r"[A-Za-z_0-9.]{0,300}")
TREES = {"builtins.tuple", "builtins.list", "builtins.dict", None}
LARGEST_JSON = 1 << 27


class Refused(ValueError):
    """A program that is not read, with the reason."""


def read_properties(content: bytes) -> str | None:
    """The metadata of a file whose entries are plain; None where it has none. `Refused`, or any error of the reader."""
    from torch.export.pt2_archive import PT2ArchiveReader

    with PT2ArchiveReader(io.BytesIO(content)) as archive:
        names = archive.get_file_names()
        for name in names:
            if not ENTRY.fullmatch(name):
                raise Refused(f"its entry {name[:80]!r} is none of those of a plain program")
        if f"extra/{PROPERTIES}" not in names:
            return None
        for name in EMPTY:
            if name in names and archive.read_bytes(name):
                raise Refused(f"its entry {name} is not empty")
        for name in names:
            if name.endswith("_config.json"):
                for field in _config(_json(archive.read_bytes(name))):
                    plain = re.fullmatch(r"(weight|tensor)_\d+", field["path_name"])
                    if field.get("use_pickle") is not False or not plain:
                        raise Refused("it holds pickled objects")
        _check(_json(archive.read_bytes("models/model.json")), "")
        return str(archive.read_string(f"extra/{PROPERTIES}"))


def read_program(content: bytes) -> Any:
    """The module of a program that `read_properties` has passed."""
    from torch.export.pt2_archive._package import load_pt2

    # not torch.export.load, which tries an older form where this one fails
    return load_pt2(io.BytesIO(content)).exported_programs["model"].module()


def _config(content: Any) -> Iterator[dict[str, Any]]:
    yield from content["config"].values()


def _json(content: bytes) -> Any:
    if len(content) > LARGEST_JSON:
        raise Refused("its description of the program is too long")
    return json.loads(content)


def _check(value: Any, key: str) -> None:
    """Check every string below `value`, by the key under which it stands. `Refused` for one that may do harm."""
    if isinstance(value, dict):
        if key == "metadata" and value:
            raise Refused("its nodes carry notes")
        for name, each in value.items():
            if not NAME.fullmatch(name):
                raise Refused(f"it has a part named {name[:80]!r}")
            _check(each, name)
    elif isinstance(value, list):
        if key in ("guards_code", "custom_obj_values") and value:
            raise Refused("it carries code")
        for each in value:
            _check(each, key)
    elif isinstance(value, str) and not _is_harmless(value, key):
        raise Refused(f"its {key} {value[:80]!r} is none of those of a plain program")


def _is_harmless(text: str, key: str) -> bool:
    match key:
        case "target":
            return text in OPERATORS
        case "expr_str":
            formula = SYMBOL.sub("0", text)
            short = len(text) <= LONGEST_FORMULA and text.count("Pow(") <= MOST_POWERS
            return short and FORMULA.fullmatch(formula) is not None
        case "in_spec" | "out_spec":
            version, tree = json.loads(text) if text else (1, None)
            return version == 1 and (tree is None or _is_plain_tree(tree))
        case "as_string":  # an argument of an operator: a text, quoted where torch writes code
            return len(text) < LONGEST_FORMULA
        case "as_float":
            return text in ("Infinity", "-Infinity", "NaN")
        case "torch_version":
            return re.fullmatch(r"[\w.+]{1,40}", text) is not None
        case "as_operator":
            return False
    return NAME.fullmatch(text) is not None


def _is_plain_tree(tree: Any) -> bool:
    plain = set(tree) <= {"type", "context", "children_spec"} and tree["type"] in TREES
    return plain and tree["context"] in ("null", "[]", None) and all(map(_is_plain_tree, tree["children_spec"]))
