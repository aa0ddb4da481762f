"""Shards: the image files of a split, as they are, in a few large files that are read by offset.

`index` says what a folder of shards holds, `writing` writes it, `store` gives the bytes of an image, `remote` brings
them from an object store.
"""
