"""The order of very many files by their names, without a name made of most of them."""

from itertools import pairwise
from pathlib import Path

import numpy as np

from simclr.data.file_list import FileList, Numbers, evenly

__all__ = ["evenly_in_order", "order_of"]


def evenly_in_order(files: FileList, rows: Numbers, most: int) -> list[Path]:
    """At most so many of the files at ``rows``, evenly drawn from them in the order of their paths as text."""
    if (np.diff(rows) <= 0).any():
        rows = np.unique(rows)
    return [files[row] for row in rows[order_of(files, rows)[evenly(len(rows), most)]].tolist()]


def order_of(files: FileList, rows: Numbers, by_parts: bool = False) -> Numbers:
    """What sorts the files at ``rows`` (N,) as text, or as paths are sorted: folder by folder. int64 (N,)."""
    used = np.flatnonzero(np.bincount(files.folder[rows], minlength=len(files.folders)))
    ends = [f"{name}/" if name else "" for name in files.folders]
    if by_parts:
        ends = [name.replace("/", "\0") for name in ends]  # below all that a name may hold
    inside = sorted(ends[i] for i in used)
    nested = any(after.startswith(before) for before, after in pairwise(inside))
    if files.ordered and not nested and (np.diff(rows) > 0).all():  # files of one folder stand together, and in order
        rank = {name: i for i, name in enumerate(inside)}
        return np.argsort(np.array([rank.get(name, 0) for name in ends])[files.folder[rows]], kind="stable")
    import pyarrow as pa
    import pyarrow.compute as pc

    names = files.joined_names(rows)
    if by_parts:
        content = np.frombuffer(names.buffers()[2], dtype=np.uint8)
        content = np.where(content == ord("/"), 0, content).astype(np.uint8)
        buffers = [None, names.buffers()[1], pa.py_buffer(content)]
        names = pa.Array.from_buffers(pa.large_binary(), len(rows), buffers)
    order: Numbers = pc.sort_indices(names).to_numpy().astype(np.int64)
    return order
