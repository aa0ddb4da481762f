"""A training that begins with another one's weights, whatever the categories of that one were.

What belongs to a category (rows of the heads that classify, embeddings of labels) goes over by the category's name,
what belongs to a token by its text; all else by the parameter's name. Nothing is left out in silence.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from detr_mini.errors import CheckpointError
from detr_mini.models.protocol import DetectionModel
from detr_mini.pretrained.checkpoints import averaged_weights, quoted
from detr_mini.pretrained.coco_categories import UNNAMED
from detr_mini.structures import Categories
from detr_mini.text.names import rows_by_name
from detr_mini.text.tokenizers import SPECIAL, UNKNOWN, AnyTokenizer, tokenizer_of

THING = "thing"
"""The category of a detector that has learned to find anything: each new category begins as it."""


PACKAGED = "start"
"""The packaged weights that `init=auto` begins with: a detector of many kinds of objects."""


@dataclass(frozen=True)
class Start:
    """What is to be trained."""

    config: Mapping[str, Any]
    """With its sections `model` and `backbone`."""
    categories: Categories
    tokenizer: AnyTokenizer | None = None


def carry(model: DetectionModel, checkpoint: Mapping[str, Any], name: str, ours: Start) -> list[str]:
    """Put the weights of a checkpoint that was read into `model`, in place; sentences about what went where.

    Rows of categories and tokens that the checkpoint does not know begin anew, and so do whole parts that it lacks
    (those that read sentences). CheckpointError where it holds another architecture; `name` stands in errors.
    """
    own, given = model.state_dict(), averaged_weights(checkpoint)
    category_rows = model.category_rows
    if not category_rows:
        raise CheckpointError(f"a {type(model).__name__} cannot begin with the weights of {name}; leave init out")
    theirs = Categories.from_dict(checkpoint["categories"])
    generic = theirs.names == (THING,)
    known = rows_by_name(theirs.names, ours.categories.names)
    if generic:  # with the score of one thing shared among the categories: their sum begins as it was
        known = dict.fromkeys(range(len(ours.categories)), 0)
        shift = math.log(len(ours.categories))
        given = {key: t - shift if key.endswith("classify.bias") else t for key, t in given.items()}
    tables = dict.fromkeys(category_rows, (known, len(ours.categories), len(theirs)))
    about = f"init={name} has learned to find things of any kind: every category begins as one"
    notices = [about if generic else _about_categories(name, theirs.names, ours.categories.names, known)]
    if ours.tokenizer is not None and checkpoint.get("tokeniser") not in (None, ours.tokenizer.state()):
        old = tokenizer_of(checkpoint["tokeniser"], f"the tokeniser in {name}")
        tokens = rows_by_token(old, ours.tokenizer)
        tables |= dict.fromkeys(model.token_rows, (tokens, len(ours.tokenizer), len(old)))
        notices.append(f"init={name}: {len(tokens)} of {len(ours.tokenizer)} tokens go on with its vectors")
    anew, unused = _parts(own) - _parts(given), _parts(given) - _parts(own)
    begun = dict(own)
    for parameter in {**own, **given}:
        part = parameter.partition(".")[0]
        if part in unused or (part in anew and parameter not in tables):
            continue
        both = parameter in own and parameter in given
        taken = _taken(own[parameter], given[parameter], tables.get(parameter)) if both else None
        if taken is None:
            raise CheckpointError(_refusal(name, checkpoint["config"], ours.config, parameter, own, given))
        begun[parameter] = taken
    model.load_state_dict(begun)
    if anew:
        notices.append(f"init={name} has no {', '.join(sorted(anew))}: they begin anew")
    if unused:
        notices.append(f"init={name}: its {', '.join(sorted(unused))} are left out, the model has none")
    return notices


def begin_with_packaged(model: DetectionModel, checkpoint: Mapping[str, Any], ours: Start) -> tuple[bool, list[str]]:
    """`carry` for `init=auto`: whether the package's start, PACKAGED, is of this architecture, and a sentence."""
    try:
        carry(model, checkpoint, PACKAGED, ours)
    except CheckpointError:
        return False, [f"init=auto: the packaged weights '{PACKAGED}' are of another model or backbone than this "
                       "training's, which begins without them"]  # fmt: skip
    theirs = Categories.from_dict(checkpoint["categories"]).names
    shared = [ours.categories.names[label] for label in rows_by_name(theirs, ours.categories.names)]
    knows = f"; it knows {quoted(shared)} already" if shared else ""
    return True, [f"init=auto: begins with the packaged weights '{PACKAGED}', which have learned to find objects of "
                  f"{len(theirs)} kinds (init=null: with the backbone alone){knows}"]  # fmt: skip


def rows_by_token(theirs: AnyTokenizer, ours: AnyTokenizer) -> dict[int, int]:
    """Of our tokens those that are one token of theirs, too: our id and theirs."""
    found = {token: token for token in range(len(SPECIAL))}
    for token in range(len(SPECIAL), len(ours)):
        text = ours.decode([token])
        ids = theirs.encode(text).ids
        if len(ids) == 1 and ids[0] != UNKNOWN and theirs.decode(ids) == text:
            found[token] = ids[0]
    return found


def _parts(weights: Iterable[str]) -> set[str]:
    """The model's parts, as the first word of each parameter's name."""
    return {name.partition(".")[0] for name in weights}


def _taken(own: Tensor, given: Tensor, table: tuple[Mapping[int, int], int, int] | None) -> Tensor | None:
    """What a parameter begins with; None where the two do not fit.

    `table`: for one of rows, our place: theirs, and how many such rows each has; what follows them goes over as it is.
    """
    if table is None:
        return given if given.shape == own.shape else None
    known, ours, theirs = table
    if own.shape[1:] != given.shape[1:] or len(own) - ours != len(given) - theirs:
        return None
    rows = {**known, **{ours + k: theirs + k for k in range(len(own) - ours)}}
    taken = own.clone()
    taken[list(rows)] = given[list(rows.values())].to(own.dtype)
    return taken


def _about_categories(name: str, theirs: Sequence[str], ours: Sequence[str], known: Mapping[int, int]) -> str:
    carried = [ours[k] if ours[k] == theirs[v] else f"{ours[k]} (its {theirs[v]})" for k, v in known.items()]
    new = [category for place, category in enumerate(ours) if place not in known]
    left = len(theirs) - len(set(known.values()))
    said = f"init={name}: {len(carried)} of {len(ours)} categories go on with its rows"
    said += f": {quoted(carried)}" if carried else ""
    said += f"; new rows: {quoted(new)}" if new else ""
    if all(category.startswith(UNNAMED) for category in theirs):
        return f"{said}; its {len(theirs)} categories have no names, so none can be matched"
    return said + (f"; {left} of its {len(theirs)} categories are not in these data" if left else "")


def _refusal(
    name: str,
    theirs: Mapping[str, Any],
    ours: Mapping[str, Any],
    parameter: str,
    own: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
) -> str:
    """What differs, and the settings that would build what the checkpoint holds."""
    kinds = [[str(config.get(part, {}).get("_target_")).rpartition(".")[2] for part in ("model", "backbone")]
             for config in (theirs, ours)]  # fmt: skip
    if kinds[0] != kinds[1]:
        return (f"init={name} holds another architecture, {' on '.join(kinds[0])}, and this training builds "
                f"{' on '.join(kinds[1])}; choose the same model=... and backbone=..., or leave init out")  # fmt: skip
    settings = [_settings({part: config.get(part) for part in ("model", "backbone")}) for config in (theirs, ours)]
    differ = [f"{key}={value}" for key, value in settings[0].items() if settings[1].get(key, value) != value]
    shapes = [tuple(weights[parameter].shape) if parameter in weights else "missing" for weights in (given, own)]
    remedy = f"say {' '.join(differ)} to build the same" if differ else "use a checkpoint of this version"
    return (f"init={name} holds another architecture: its {parameter} is {shapes[0]}, here it is {shapes[1]}; "
            f"{remedy}, or leave init out")  # fmt: skip


def _settings(config: Mapping[str, Any], path: str = "") -> dict[str, str]:
    """Every setting of a config by its dotted name, without blanks; but for where weights come from."""
    found: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= _settings(value, f"{path}{key}.")
        elif key != "weights":
            found[f"{path}{key}"] = "null" if value is None else str(value).replace(" ", "")
    return found
