"""Find objects with an exported file. Needs onnxruntime, numpy and Pillow; neither torch nor detr_mini.

python detect_onnx.py cells.onnx photo.jpg
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def detect(model: str, picture: str) -> list[tuple[str, float, list[float]]]:
    """Name, score and box (left, top, right, bottom in pixels) of each object, best first."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    names, threshold = json.loads(metadata["names"]), json.loads(metadata["threshold"])
    image = ImageOps.exif_transpose(Image.open(picture)).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")  # as predict does
    pixels = np.asarray(image)[None]  # (1, height, width, 3), uint8, of any size
    boxes, scores, labels = session.run(["boxes", "scores", "labels"], {"pixels": pixels})
    kept = scores[0] >= threshold
    found = zip(labels[0][kept], scores[0][kept], boxes[0][kept], strict=True)
    return [(names[label], float(score), box.tolist()) for label, score, box in found]


if __name__ == "__main__":
    for name, score, (left, top, right, bottom) in detect(*sys.argv[1:]):
        print(f"{name} {score:.3f} {left:.1f} {top:.1f} {right:.1f} {bottom:.1f}")
