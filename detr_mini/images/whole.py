"""Whether an image file is whole, without torch where its end says so."""

from __future__ import annotations

from detr_mini.images.encoded import ImageFile
from detr_mini.images.header import is_whole_file


def refuse_cut(path: ImageFile) -> None:
    """DataError for a file that is cut off. One without an end mark is decoded to find out: some have more behind it.

    Only that imports torch, which takes longer than the headers of ten thousand images.
    """
    if not is_whole_file(path):
        from detr_mini.images.load import load_image

        load_image(path)  # says what is wrong, if anything is
