"""A folder of very many files: seconds from the command to the first batch, and memory a process, the first time and the second.

    python benchmarks/many_files.py --data DIR      # a folder of pictures; --quick links a few thousand and takes seconds

A million hard links to the pictures of DIR, in a thousand class folders beside it, are opened as a run opens its images: listed,
divided, written to its list; then two workers read 20 batches. Then again, as a run that goes on. Ten million are rows alone,
below as many folders as a set of that size would have: without files, so that the batches are paths and no pictures. Each start
is a process of its own; its memory, and that of a worker, is what it does not share (USS). The links and folders are removed.
"""

import argparse
import csv
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]  # it ships no types
import torch
from PIL import Image

from simclr.command_line import run_command
from simclr.config import DataConfig, TrainConfig
from simclr.data import Batches, EpochSampler
from simclr.data.file_list import FileList, starts_of
from simclr.data.listed_files import ListedFiles, Words
from simclr.data.listing import Listing, list_images
from simclr.data.metadata import read_metadata
from simclr.data.parts_list import FILE, PartsList
from simclr.data.workers import read_by_workers
from simclr.errors import ConfigError
from simclr.run.division import open_images
from simclr.run.folder import claim
from simclr.run.lock import release

IN_A_FOLDER = 1000
BATCHES = 20


def link(pictures: list[Path], root: Path, files: int) -> None:
    """Make ``files`` hard links below ``root``, a thousand in each folder."""
    for number in range(files):
        inside = root / f"class{number // IN_A_FOLDER:05d}"
        if number % IN_A_FOLDER == 0:
            inside.mkdir(parents=True)
        picture = pictures[number % len(pictures)]
        try:
            os.link(picture, inside / f"picture_{number:08d}{picture.suffix}")
        except OSError as error:
            raise ConfigError(
                f"{picture} cannot be linked to {inside} ({error.strerror}); give a copy elsewhere"
            ) from error


def rows_alone(config: TrainConfig, rows: int) -> None:
    """What a run on ``rows`` files leaves in its folder, and folders that hold none of them."""
    root = config.data.path
    assert root is not None
    folders = [f"class{number:05d}" for number in range(rows // IN_A_FOLDER)]
    for name in folders:
        (root / name).mkdir(parents=True)
    names = [f"picture_{number:08d}.jpg".encode() for number in range(rows)]
    folder = np.repeat(np.arange(len(folders), dtype=np.int32), IN_A_FOLDER)
    ends = starts_of(np.full(rows, len(names[0])))
    files = FileList(root, folders, folder, ends, np.frombuffer(b"".join(names), np.uint8), ordered=True, linked=False)
    changed = np.array([(root / name).stat().st_mtime_ns for name in ("", *folders)])
    tested = (np.arange(rows) % 5 == 0).astype(np.uint8)
    listed = ListedFiles(
        files=files,
        rows=np.arange(rows),
        part=Words(words=("train", "test"), of=tested),
        of=Words(words=("train", "test"), of=tested),
        label=Words(words=tuple(folders), of=folder),
        bytes=np.full(rows, -1),
    )
    listing = Listing(root=root, paths=files, others={}, folders=("", *folders), changed=changed)
    claim(config, PartsList(Path(FILE), listed, tuple(folders), len(folders), listing=listing))
    release(config.run_dir)


def start(config: TrainConfig, decode: bool, told: Connection) -> None:
    """Open the images of a run and read from them; tell the seconds and bytes that it took."""
    multiprocessing.set_start_method(None, force=True)  # workers start as they do in a run
    own, began = psutil.Process(), time.perf_counter()
    before = own.memory_full_info().uss
    division = open_images(config)
    opened = time.perf_counter() - began
    claim(config, division.listed)
    images, added = division.images, own.memory_full_info().uss - before
    sampler = EpochSampler(images=len(images), batch_size=config.train.batch_size, seed=0)
    if decode:
        steps: Iterator[object] = iter(Batches(images, sampler, torch.device("cpu"), start=0, stop=BATCHES, workers=2))
    else:
        paths = images.paths or ()
        keys = [sampler.indices(step) for step in range(BATCHES)]
        steps = read_by_workers(lambda rows: [str(paths[row]) for row in rows.tolist()], keys, workers=2)
    next(steps)
    first = time.perf_counter() - began
    for _ in range(BATCHES - 4):
        next(steps)
    workers = [psutil.Process(worker.pid).memory_full_info().uss for worker in multiprocessing.active_children()]
    told.send((opened, first, added, own.memory_info().rss, max(workers)))


def labels(root: Path, file: Path, told: Connection) -> None:
    """Read a file of labels; tell the seconds and the most memory that it took."""
    import resource

    files = list_images(root).paths
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    said = read_metadata(file, root, files)
    assert said.labels is not None and bool((said.labels >= 0).all())
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    told.send((time.perf_counter() - began, more * 1024))


def in_a_process(work: object, *given: object) -> tuple[float, ...]:
    """What ``work`` tells, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=work, args=(*given, there))  # type: ignore[arg-type]
    process.start()
    there.close()
    try:
        found: tuple[float, ...] = here.recv()
    except EOFError:
        sys.exit("the process is gone; its error stands above")
    process.join()
    return found


def line(what: str, told: tuple[float, ...]) -> None:
    opened, first, own, whole, worker = told
    print(
        f"{what:36} {opened:7.1f} s {first:7.1f} s {own / 2**20:8.0f} MB {whole / 2**20:8.0f} MB {worker / 2**20:8.0f} MB",
        flush=True,
    )


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of pictures")
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--quick", action="store_true", help="a few thousand files, of pictures that are made")
    options = parser.parse_args(arguments)
    if options.data is None and not options.quick:
        raise ConfigError("no pictures: give a folder of them with --data DIR, or --quick")
    files, rows = (2000, 100_000) if options.quick else (options.files, options.rows)
    with tempfile.TemporaryDirectory(dir=None if options.data is None else options.data.parent) as made:
        folder = Path(made)
        if options.data is None:
            options.data = folder / "pictures"
            options.data.mkdir()
            for i in range(8):
                Image.new("RGB", (32, 32), (i * 30, 0, 0)).save(options.data / f"{i}.jpg")
        pictures = list(list_images(options.data).paths[:500])
        link(pictures, folder / "links", files)
        data = DataConfig(source="folder", path=folder / "links", size=32, device_resident="no", workers=2)
        config = replace(TrainConfig(), name="links", out=folder / "runs", data=data)
        alone = replace(config, name="rows", data=replace(data, path=folder / "folders"))
        print(f"{'':36} {'opened':>9} {'batch 1':>9} {'added':>11} {'process':>11} {'a worker':>11}")
        for again in ("", ", again"):
            line(f"{files:,} files{again}", in_a_process(start, config, True))
        rows_alone(alone, rows)
        line(f"{rows:,} rows, again", in_a_process(start, alone, False))
        table = folder / "labels.csv"
        with table.open("w", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(("path", "label"))
            writer.writerows((name, name[:10]) for name in list_images(folder / "links").paths.each_name())
        seconds, most = in_a_process(labels, folder / "links", table)
        print(f"a CSV of {files:,} labels: {seconds:.1f} s, {most / 2**20:.0f} MB at most")
        shutil.rmtree(folder / "runs")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
