"""From configs to models: only our own parts, and mistakes named."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from detector_parts import BACKBONE, MODEL
from detr_mini.config.parts import plain
from detr_mini.errors import ConfigError
from detr_mini.models.build import build_model, build_part, rebuild
from detr_mini.models.mini import MiniDETR
from detr_mini.models.protocol import DetectionModel


def test_plain_and_hydra_configs_build_the_same() -> None:
    for wrap in (dict, OmegaConf.create):
        model = build_model(wrap(MODEL), wrap(BACKBONE), 5)
        assert isinstance(model, MiniDETR)
        assert model.num_classes == 5
        assert model.stride == 16


@pytest.mark.parametrize(
    "target",
    ["os.system", "torch.load", "detr_mini.models.mini.torch.load", "detr_mini.models.mini.nn", "detr_mini.models.nope",
     "detr_mini.models.build.build_part", "detr_mini.models.mini.MiniDETR.forward",
     "detr_mini.verbs.data_shapes.data_shapes", "detr_mini.modelsx.y", ""],
)  # fmt: skip
def test_a_target_of_others_is_refused_at_any_depth(target: str, tmp_path: Path) -> None:
    bad = {"_target_": target, "path": str(tmp_path)}
    for model, backbone in ((bad, BACKBONE), (MODEL, bad), ({**MODEL, "dim": [{"x": bad}]}, BACKBONE)):
        with pytest.raises(ConfigError, match="_target_"):
            build_model(model, backbone, 3)


def test_an_unknown_setting_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"model\.hed .* did you mean 'heads'"):
        build_model({**MODEL, "hed": 3}, BACKBONE, 3)


def test_a_value_that_cannot_be_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match="cannot be built"):
        build_model(MODEL, {**BACKBONE, "channels": 3}, 3)
    with pytest.raises(ConfigError, match="no _target_"):
        build_part("model", {})


def test_a_config_of_any_age_names_its_parts_as_today() -> None:
    older = {"model": {"_target_": "detr_mini.models.mini.MiniDETR", "dim": 64},
             "data": {"augment": [{"_target_": "detr_mini.data.windows.Mosaic", "p": 1}]}}  # fmt: skip
    assert plain(older, "config") == {
        "model": {"_target_": "detr_mini.models.MiniDETR", "dim": 64},
        "data": {"augment": [{"_target_": "detr_mini.data.Mosaic", "p": 1}]},
    }


def test_a_setting_that_an_older_checkpoint_leaves_out_has_its_value_of_then() -> None:
    older = {key: value for key, value in MODEL.items() if key != "sample_channels"}
    weights = build_model({**older, "sample_channels": 32}, BACKBONE, 3).state_dict()
    assert rebuild(older, BACKBONE, 3, weights).state_dict().keys() == weights.keys()
    with pytest.raises(ConfigError, match="sample_channels"):
        build_model(older, BACKBONE, 3)


def test_a_users_model_that_says_nothing_of_denoising_or_captions_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_small_model.py").write_text(
        "from torch import nn\n\n\nclass Small(nn.Module):\n    def __init__(self, *, backbone, num_classes):\n"
        "        super().__init__()\n        self.stride = backbone.strides[-1]\n\n    def forward(self, images):\n"
        "        ...\n\n    def postprocess(self, output, sizes, categories, limit=100):\n        ...\n"
    )
    model = build_model({"_target_": "my_small_model.Small"}, BACKBONE, 3, modules=["my_small_model"])
    assert isinstance(model, DetectionModel)
    assert (model.max_tokens, model.category_rows, model.start([])) == (0, (), [])
