"""Find what a sentence asks for with an exported detector. Needs onnxruntime, numpy, Pillow and tokenizers, no torch.

python ask_onnx.py captions.onnx photo.jpg "the red cup left of the plate"
"""

import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from tokenizers import Tokenizer


def ask(model: str, picture: str, caption: str) -> list[tuple[str, float, list[float]]]:
    """Phrase, score and box (left, top, right, bottom in pixels) of each object that the caption asks for."""
    files = [Path(model), Path(model).with_suffix(".text.onnx")]
    first, second = (onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]) for file in files)
    tokenizer = Tokenizer.from_file(str(files[0].with_name("tokenizer.json")))
    threshold = json.loads(first.get_modelmeta().custom_metadata_map["captions"])["threshold"]

    image = ImageOps.exif_transpose(Image.open(picture)).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")  # as predict does
    objects, boxes = first.run(["objects", "object_boxes"], {"pixels": np.asarray(image)[None]})

    tokens = tokenizer.encode(caption)
    asked = {"token_ids": np.array([tokens.ids]), "attention_mask": np.array([tokens.attention_mask])}
    given = {"objects": objects, "object_boxes": boxes, **asked, "pictures": np.array([0])}
    logits, phrases = second.run(["logits", "phrases"], given)

    found = []
    for phrase in range(phrases.max() + 1):
        own = np.flatnonzero(phrases[0] == phrase)
        spans = [tokens.offsets[token] for token in own]  # of parts of words, those that touch are joined
        gaps = [" " * (left[1] < right[0]) for left, right in pairwise(spans)] + [""]
        words = "".join(caption[slice(*span)] + gap for span, gap in zip(spans, gaps, strict=True)).strip()
        scores = 1 / (1 + np.exp(-logits[0][:, own].mean(1)))
        for score, (x, y, width, height) in zip(scores, boxes[0], strict=True):
            corners = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2]).clip(0, 1)
            if score >= threshold:
                found.append((words, float(score), (corners * [*image.size, *image.size]).tolist()))
    return sorted(found, key=lambda one: -one[1])


if __name__ == "__main__":
    for words, score, (left, top, right, bottom) in ask(*sys.argv[1:]):
        print(f"{words}\t{score:.3f} {left:.1f} {top:.1f} {right:.1f} {bottom:.1f}")
