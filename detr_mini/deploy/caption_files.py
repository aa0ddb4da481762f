"""The files beside a detector that takes captions: its second file, which answers them, and tokenizer.json."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from detr_mini.deploy.caption_network import ANSWERS, ASKED
from detr_mini.deploy.description import CAPTIONS, TakesCaptions
from detr_mini.deploy.openvino_folder import MODEL
from detr_mini.deploy.runtimes import Runtime
from detr_mini.errors import CheckpointError, UserError, first_line
from detr_mini.models.protocol import DetectionModel
from detr_mini.safe_files import read_bytes
from detr_mini.structures import Captions, DetectorOutput, GroundingOutput
from detr_mini.text.tokenizer_json import read_json
from detr_mini.text.tokenizers import AnyTokenizer

TOKENIZER = "tokenizer.json"
TEXT_MODEL = "text.xml"
_TEXT = ".text"
_LARGEST_TOKENIZER = 1 << 27


def caption_file(file: Path) -> Path:
    """The second file of the export `file`: captions.text.onnx beside captions.onnx, text.xml beside model.xml."""
    return file.with_name(TEXT_MODEL) if file.name == MODEL else file.with_name(f"{file.stem}{_TEXT}{file.suffix}")


def is_caption_file(file: Path) -> bool:
    """Whether `file` is a second one, by its name."""
    return file.name == TEXT_MODEL or Path(file.stem).suffix == _TEXT


def checksum(content: bytes) -> str:
    """SHA-256 of a file's content."""
    return hashlib.sha256(content).hexdigest()


def weights_checksum(model: DetectionModel) -> str:
    """SHA-256 of a model's weights, by their names."""
    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def open_reader(file: Path, takes: TakesCaptions, opened: Callable[[Path], Runtime]) -> CaptionReader:
    """The second file of the export `file`. `takes`: what the first one says; `opened`: of the runtime.

    CheckpointError where the second file or the tokeniser is missing or belongs to another export.
    """
    second, vocabulary = caption_file(file), file.with_name(TOKENIZER)
    for part, what in ((second, "answers captions"), (vocabulary, "turns captions into tokens")):
        if not part.is_file():
            raise CheckpointError(f"{file} takes captions, and the file that {what}, {part.name}, is not beside it; "
                                  "copy all files of the export, or export the checkpoint again")  # fmt: skip
    try:
        content = read_bytes(vocabulary, _LARGEST_TOKENIZER)
    except OSError as error:
        raise CheckpointError(f"cannot read {vocabulary} ({error.strerror}); export the checkpoint again") from error
    if checksum(content) != takes.tokenizer:
        raise _of_another(vocabulary, file)
    runtime = opened(second)
    try:
        said = TakesCaptions.read(runtime.properties[CAPTIONS])
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{second} is no second file of 'detr-mini export'; export the checkpoint again"
        ) from error
    if (said.weights, said.tokenizer) != (takes.weights, takes.tokenizer):
        raise _of_another(second, file)
    return CaptionReader(runtime, read_json(content.decode("utf-8"), str(vocabulary)), takes.max_tokens, str(second))


def _of_another(part: Path, file: Path) -> CheckpointError:
    return CheckpointError(f"{part} belongs to another export than {file}; put the files of one export together, in a "
                           "folder of their own, or export the checkpoint again")  # fmt: skip


class CaptionReader:
    """The second file and its tokeniser. `ground` is that of `GroundedDETR`."""

    def __init__(self, runtime: Runtime, tokenizer: AnyTokenizer, max_tokens: int, name: str) -> None:
        """`name` stands in errors."""
        self.runtime, self.tokenizer, self.max_tokens, self.name = runtime, tokenizer, max_tokens, name

    def ground(self, output: DetectorOutput, captions: Captions) -> GroundingOutput:
        """Which objects of its image each caption refers to. Captions may share an image."""
        assert output.queries is not None
        mask = (~captions.padding_mask).long()
        values = (output.queries, output.boxes, captions.token_ids, mask, captions.caption_image)
        logits, tags = self._run(dict(zip(ASKED, (value.numpy() for value in values), strict=True)), ANSWERS[:2])
        return GroundingOutput((logits,), tags)

    def _run(self, inputs: dict[str, np.ndarray], outputs: Sequence[str]) -> list[torch.Tensor]:
        try:
            found = self.runtime.run(inputs, outputs)
            return [torch.from_numpy(np.array(values)) for values in found]  # a runtime may use its own memory again
        except CheckpointError:  # in a forked child, which reads the file again
            raise
        except Exception as error:  # each runtime has errors of its own
            count, tokens = inputs["token_ids"].shape
            raise UserError(
                f"{self.runtime.name} cannot run {self.name} on {count} captions of {tokens} tokens "
                f"({first_line(error)[:200]}); try a shorter caption or batch_size=1"
            ) from error
