"""The features of a set of images under a run's encoder, in a file, and the images nearest to others: ``scripts/embed.py``."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linear_eval.config import AUTOCAST
from linear_eval.features.disk import FeatureWriter
from linear_eval.features.extract import Features, extract_features
from linear_eval.features.naming import Names, Naming
from linear_eval.features.order import images_elsewhere
from linear_eval.features.parquet import embedding_chunks
from linear_eval.features.tables import check_embedding_path, write_embeddings, write_names
from linear_eval.features.write_share import WriteShare, write_parquet
from linear_eval.keeping import kept_beside
from linear_eval.look.images import all_images
from linear_eval.look.taken import decoded_later, whole_features
from linear_eval.matching.search import nearest
from linear_eval.progress import default_device, print_line
from linear_eval.scored_run import ScoredRun, as_trained
from linear_eval.sharing import placed
from simclr.config import DataConfig
from simclr.data import ImageSet
from simclr.errors import ConfigError, require
from simclr.exchange.encoder import Encoder
from simclr.exchange.given import EncoderWords
from simclr.names import printable
from simclr.paths import expand_fields
from simclr.progress import terminal

__all__ = ["EmbedOptions", "Embedded", "embed_run"]


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(EncoderWords):
    """What embedding can be told; the images default to the run's own."""

    out: Path | None = None
    """Where to: a file .npz or .parquet, or a name without an ending for a folder of .npy files, read by
    `linear_eval.Features.load`, that may be larger than memory. The folder's images are named in a .csv beside it. Of several
    processes each writes its part of a .parquet, which is a folder then."""

    thumbnails: int | None = None
    """Of a .parquet also a column `image`: each image as it was embedded, at most so many pixels wide, for programs that show
    it beside its embedding."""

    part: Literal["all", "train", "test"] = "all"
    """Which images: the training or the test images, as a run divides them, or both."""

    normalise: bool = False
    """Make every embedding one of length 1, so that products of them are cosines."""

    query: tuple[Path, ...] = ()
    """Image files to look for: prints the nearest images of the set."""

    k: int = 5
    """How many of them."""

    batch_size: int = 256
    """Images an encoder call."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Type the encoder runs in; the embeddings are float32 in any case."""

    data: DataConfig = field(default_factory=DataConfig)
    """The images."""

    def __post_init__(self) -> None:
        expand_fields(self, "out", "query")
        require(self.k >= 1, "k", self.k, "at least 1")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        if self.out is not None:
            check_embedding_path(self.out)
        if self.thumbnails is not None:
            require(8 <= self.thumbnails <= 1024, "thumbnails", self.thumbnails, "from 8 to 1024 pixels")
            if self.out is None or self.out.suffix != ".parquet":
                raise ConfigError(
                    f"thumbnails go into a .parquet, and out is {self.out}; name one, or leave --thumbnails out"
                )


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """What ``embed_run`` found."""

    features: Features | None
    """Of all images, in the order of the set; None where they are in a .parquet."""

    count: int
    """Images."""

    width: int
    """Features of each."""

    labelled: int
    """Images that have a label."""

    names: Sequence[str]
    """What each image is called: its path below the set's folder; part and number (`test/17`) in a set without files."""

    classes: tuple[str, ...]
    """Name of each label."""

    left_out: tuple[Path, ...]
    """Files that do not decode."""

    elsewhere: int
    """Images below the set's folder that are in neither part, as those of a third folder beside train and test are."""

    files: tuple[Path, ...]
    """What was written."""

    neighbours: dict[Path, list[tuple[float, int]]]
    """Query -> cosine and row of each of its nearest images, the nearest first."""

    def lines(self, most: int = 20) -> list[str]:
        """What was done, in words, naming at most ``most`` files that were left out."""
        lines = [f"{self.count} images, {self.width} features, {self.labelled} labels"]
        if self.left_out:
            lines.append(f"left out, since they do not decode: {len(self.left_out)}")
            lines += [f"  {path}" for path in self.left_out[:most]]
        if len(self.left_out) > most:
            lines.append(f"  and {len(self.left_out) - most} more")
        if self.elsewhere:
            lines.append(
                f"in neither part and not embedded: {self.elsewhere} images; name their folder with --data.path"
            )
        for query, found in self.neighbours.items():
            lines.append(f"nearest to {query}, cosine and image:")
            lines += [f"  {cosine:7.4f}  {self.names[row]}" for cosine, row in found]
        return [printable(line) for line in lines + [f"wrote {file}" for file in self.files]]


def embed_run(
    path: ScoredRun | Path | str, options: EmbedOptions, progress: Callable[[int, int], None] | None = None
) -> Embedded:
    """Embed every image that ``options`` name with the encoder at ``path``, write them, and look for the queries.

    Files that do not decode end it before anything is written, or with ``data.broken="skip"`` are left out and named.

    Args:
        path: a run, or whatever else ``simclr.load_encoder`` takes.
        options: images, format, queries.
        progress: called with (images done, images in all).

    Raises:
        CheckpointError: no encoder there, or a disk that refuses.
        ConfigError: neither a file to write nor a query.
        DataError: no images, files that do not decode, or features that are not finite.
    """
    if options.out is None and not options.query:
        raise ConfigError("nothing to do with the embeddings: name a file with --out, or images with --query")
    run = ScoredRun.at(path)
    encoder, reader = run.encoder(), run.description.reader
    options = replace(options, data=as_trained(options.data, reader, run.data))
    # All are all that are there now, whichever the run divided.
    found = all_images(run, options.data, options.part, run.kept(options.data) if options.part != "all" else None)
    whole = found.images
    reads = whole.reader if whole.places else replace(reader, size=options.data.size)
    queries = {query: reads.square(query) for query in options.query}  # a bad one is refused before the work
    for note in whole.first_lines():
        print_line(terminal(), note)
    naming = Naming(root=options.data.path, parts=found.numbers)
    module = _Normalised(encoder) if options.normalise else encoder
    x: Tensor | Iterator[Tensor]
    files: tuple[Path, ...]
    kept, features = kept_beside(run, lambda line: print_line(terminal(), line)), None
    streamed = options.out is not None and options.out.suffix == ".parquet"
    if not streamed and kept.keeps(encoder, whole) and whole.broken == "refuse":
        wanted = decoded_later(kept, found, options.data, options.batch_size)
        autocast = AUTOCAST[options.precision]
        features = whole_features(kept, encoder, wanted, options.batch_size, autocast, options.data.workers)
        if progress is not None:
            progress(len(features), len(features))
        naming.refuse(whole, 0, features.x, features.index)
    images, broken = whole, dict[int, str]()
    if features is None:
        images, broken = placed(whole, options.data.device_resident, options.batch_size)
    if streamed:
        assert options.out is not None
        job = WriteShare(
            out=options.out,
            encoder=module,
            batch_size=options.batch_size,
            device=default_device().type,
            workers=options.data.workers,
            autocast=AUTOCAST[options.precision],
            naming=naming,
            classes=images.classes,
            thumbnails=options.thumbnails,
        )
        count, width, labelled = write_parquet(job, images, progress)
        x, files = embedding_chunks(options.out), (options.out,)
    else:
        if features is None:
            features = _features(module, images, naming, options, progress)
            files = _write(options.out, features, Names(naming, images), images.classes)
        else:
            features = replace(features, x=F.normalize(features.x, dim=1)) if options.normalise else features
            files = _write_all(options.out, features, Names(naming, images), images.classes)
        (count, width), labelled, x = features.x.shape, int((features.y >= 0).sum()), features.x
    return Embedded(
        features=features,
        count=count,
        width=width,
        labelled=labelled,
        names=Names(naming, images),
        classes=images.classes,
        left_out=tuple(Path(whole.describe(index)) for index in broken),
        elsewhere=images_elsewhere(whole, options.data.path) if options.part == "all" else 0,
        files=files,
        neighbours=_neighbours(encoder, queries, x, options.k),
    )


def _write_all(out: Path | None, features: Features, names: Sequence[str], classes: Sequence[str]) -> tuple[Path, ...]:
    """Write all of ``features``, and name the files."""
    if out is not None and not out.suffix:
        features.save(out)
    return _write(out, features, names, classes)


def _write(out: Path | None, features: Features, names: Sequence[str], classes: Sequence[str]) -> tuple[Path, ...]:
    """Write what is not written yet, and name all files."""
    if out is None:
        return ()
    if out.suffix:
        write_embeddings(out, features, names, classes)
        return (out,)
    listing = out.with_name(f"{out.name}.csv")
    write_names(listing, features.y, names, classes)
    return (out, listing)


def _features(
    module: nn.Module,
    images: ImageSet,
    naming: Naming,
    options: EmbedOptions,
    progress: Callable[[int, int], None] | None,
) -> Features:
    folder = options.out if options.out is not None and not options.out.suffix else None
    try:
        return extract_features(
            module,
            images,
            options.batch_size,
            default_device(),
            workers=options.data.workers,
            autocast=AUTOCAST[options.precision],
            out=folder,
            progress=progress,
            naming=naming,
        )
    except BaseException:
        if folder is not None:
            shutil.rmtree(FeatureWriter(folder, len(images)).partial, ignore_errors=True)
        raise


@torch.no_grad()
def _neighbours(
    encoder: Encoder, queries: dict[Path, Tensor], x: Tensor | Iterator[Tensor], k: int
) -> dict[Path, list[tuple[float, int]]]:
    if not queries:
        return {}
    encoder.cpu()
    asked = torch.cat([encoder(pixels[None]) for pixels in queries.values()])  # (Q, F)
    cosines, rows = nearest(asked, x, k)
    return {
        query: list(zip(c, r, strict=True))
        for query, c, r in zip(queries, cosines.tolist(), rows.tolist(), strict=True)
    }


class _Normalised(nn.Module):
    """An encoder whose features have length 1."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.encoder(images).float(), dim=1)
