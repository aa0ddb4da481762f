"""`detr-mini data scene`: one made scene, and captions of it to try a detector on."""

from __future__ import annotations

import random
from pathlib import Path

from omegaconf import DictConfig
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from detr_mini.captions.made_dataset import captions_of_all_kinds
from detr_mini.captions.scenes import draw_items
from detr_mini.errors import ConfigError


def data_scene(config: DictConfig) -> Path:
    """Draw a scene from the test split, which no training sees, and print a caption of each kind; the image's path."""
    output = Path(config.output).expanduser()
    if output.suffix.lower() != ".png":
        raise ConfigError(f"the output {output} is not a PNG file; choose a name that ends in .png: output=scene.png")
    pixels, items = draw_items(int(config.seed), "test", 0, int(config.size))
    output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(output)
    captions = captions_of_all_kinds(items, int(config.size), random.Random(int(config.seed)), "test")
    table = Table("kind", "caption", "boxes", title=escape(f"{len(items)} objects in {output}"))
    for caption in captions:
        boxes = sum(len(phrase.things) for phrase in caption.phrases if phrase.asked)
        table.add_row(caption.kind, caption.text, str(boxes))
    console = Console()
    console.print(table)
    example = next((c.text for c in captions if c.kind == "relation"), captions[0].text if captions else "the star")
    command = f'detr-mini predict checkpoint=shapes_captions source={output} caption="{example}"'
    console.print(command, soft_wrap=True, markup=False)
    return output
