"""`python docs/attention_pictures.py RUN PICTURE`: the pictures of docs/attention.md, from trained weights.

RUN is a run folder of a detector, PICTURE what its queries are shown on; outputs/benchmark_attention/cost.png must be
there (`detr-mini benchmark attention`). The sentence's encoder is trained here, for a minute.
"""

from __future__ import annotations

import random
import shutil
import sys
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from detr_mini import load
from detr_mini.drawing.attention import draw_attention
from detr_mini.images.load import load_image
from detr_mini.inference.explain import explain
from detr_mini.text.encoder import TextEncoder
from detr_mini.text.tokenizers import WordTokenizer, pad

IMAGES = Path(__file__).parent / "images"
NOUNS = ("dog", "cat", "horse", "bird", "child", "fox")
VERBS = ("chased", "saw", "followed", "heard")
WORDS = ("old", "small", "red", "quick", "that slept", "in the garden")


def sentence(rng: random.Random) -> tuple[str, int]:
    """A sentence of two nouns, and which of `NOUNS` comes first."""
    first, second = rng.sample(range(len(NOUNS)), 2)
    parts = []
    for noun in (first, second):
        adjective, clause = rng.choice([*WORDS[:4], ""]), rng.choice([*WORDS[4:], ""])
        parts.append(f"the {adjective} {NOUNS[noun]} {clause}")
    return " ".join(f"{parts[0]} {rng.choice(VERBS)} {parts[1]}".split()), first


class FirstNoun(nn.Module):
    """A text encoder, and a linear layer on its [BEGIN] token."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.encoder = TextEncoder(vocabulary=vocabulary, dim=64, heads=2, feedforward=128, layers=2)
        self.head = nn.Linear(64, len(NOUNS))

    def forward(self, ids: Tensor, padding: Tensor) -> Tensor:
        """Logits of the noun that comes first."""
        return self.head(self.encoder(ids, padding)[0][:, 0])


def trained(seconds: float) -> tuple[FirstNoun, WordTokenizer, float]:
    """The model after `seconds` of training, its tokeniser, and its accuracy on 1,000 new sentences."""
    torch.manual_seed(0)
    rng = random.Random(0)
    tokenizer = WordTokenizer.train(sentence(rng)[0] for _ in range(1000))
    model = FirstNoun(len(tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def batch(size: int) -> tuple[Tensor, Tensor, Tensor]:
        texts, labels = zip(*(sentence(rng) for _ in range(size)), strict=True)
        return *pad([tokenizer.encode(text).framed() for text in texts]), torch.tensor(labels)

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ids, padding, labels = batch(64)
        nn.functional.cross_entropy(model(ids, padding), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    ids, padding, labels = batch(1000)
    with torch.no_grad():
        accuracy = float((model(ids, padding).argmax(1) == labels).float().mean())
    return model, tokenizer, accuracy


def draw_sentence(model: FirstNoun, tokenizer: WordTokenizer, text: str, path: Path) -> None:
    """Where each word looks, a panel a layer and head."""
    encoding = tokenizer.encode(text).framed()
    ids, padding = pad([encoding])
    with torch.no_grad():
        _, layers = model.encoder(ids, padding, need_weights=True)
    words = ["begin", *(text[begin:end] for begin, end in encoding.spans[1:-1]), "end"]
    heads = layers[0].shape[1]
    figure = Figure(figsize=(4.6 * heads, 4.6 * len(layers)), dpi=90, layout="constrained", facecolor="white")
    panels = figure.subplots(len(layers), heads)
    for row, weights in zip(panels, layers, strict=True):
        for axes, head in zip(row, range(heads), strict=True):
            axes.imshow(weights[0, head], cmap="viridis", vmin=0, vmax=1)
            axes.set_xticks(range(len(words)), words, rotation=60, ha="right")
            axes.set_yticks(range(len(words)), words)
            axes.set_title(f"head {head + 1}")
    for number, row in enumerate(panels, 1):
        row[0].set_ylabel(f"layer {number}: who looks")
    figure.savefig(path)


def main() -> None:
    """Write the three pictures into docs/images."""
    if len(sys.argv) != 3:
        sys.exit(str(__doc__))
    run, picture = sys.argv[1:]
    IMAGES.mkdir(exist_ok=True)
    shutil.copyfile("outputs/benchmark_attention/cost.png", IMAGES / "attention_cost.png")
    detections, maps = explain(load(run), picture)
    drawn = draw_attention(load_image(picture), detections[:4], maps[:4], side=200)
    drawn.save(IMAGES / "attention_queries.jpg", quality=90)
    model, tokenizer, accuracy = trained(60)
    print(f"first noun: accuracy {accuracy:.3f} on 1,000 new sentences")
    draw_sentence(model, tokenizer, "the quick fox that slept saw the old child", IMAGES / "attention_sentence.png")


if __name__ == "__main__":
    main()
