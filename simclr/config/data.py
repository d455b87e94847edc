"""What a run can be told about its images: which, how they are divided, and which come together in a batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal

from simclr.config.marks import OneOf, Rare, Runtime
from simclr.config.sources import GIVEN, PACKED, known_sources
from simclr.errors import ConfigError, require
from simclr.paths import expand_fields

__all__ = ["DataConfig", "SamplerConfig"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images, and how they are stored."""

    gone: ClassVar[Mapping[str, object]] = MappingProxyType({"decode": "cpu"})
    """Settings of earlier versions, and the value that is now the only one."""

    before: ClassVar[Mapping[str, object]] = MappingProxyType({"crops": "square"})
    """What an earlier version did that had no such setting: a run that it began goes on like that."""

    source: Annotated[str, OneOf(known_sources, unoffered=(GIVEN,))] = "digits"
    """The image set. `digits` comes with scikit-learn; `folder` is any folder of images, given by `path`, `shards` tars of
    WebDataset, `parquet` tables of Hugging Face's; plugins add others."""

    path: Path | None = None
    """`folder`: its images, at any depth. `shards`, `parquet`: a folder of them, a file, a pattern, braces; shards also a URL or
    `pipe:COMMAND`, parquet a set of the hub. The named sets: where their files are or are downloaded to (default: data/)."""

    size: int = 32
    """Stored size in pixels: every image is decoded once to RGB uint8 of size x size (shorter side, centre crop)."""

    fit: Rare[Literal["crop", "pad", "stretch"]] = "crop"
    """How an image becomes the square that one vector is made of: its middle, all of it on black, or all of it stretched."""

    crops: Rare[Literal["original", "square"]] = "original"
    """What random crops are cut from: the picture as it is, or the square that `fit` makes of it."""

    channels: int = 3
    """Bands of an image. 3 takes colours, and gray as colour; any other number takes files of so many bands, or 1 gray."""

    value_range: Rare[Literal["auto", "percentiles"] | tuple[float, float]] = "auto"
    """Values that become 0 and 255, one pair for the whole set: LOW HIGH; `auto`: of images deeper than 8 bits, what the
    set uses; `percentiles`: the 0.1 and 99.9 percentile of the set."""

    pages: Rare[Literal["first", "all"]] = "first"
    """Of files with several pages or frames the first, or each of them as an image of its own."""

    max_pixels: Rare[int] = 178_956_970
    """Pixels of the largest image that is decoded."""

    labels: Literal["auto", "none", "first", "last", "path"] | Path = "auto"
    """`folder`: the label of an image is the `first` or the `last` folder of its path, or the `path` of all of them; `auto` takes
    a metadata file in the folder or the first; `none` ignores them; a CSV, JSON Lines or parquet file says it image by image.
    `shards`, `parquet`: the name of the key or the column."""

    group: Rare[str | None] = None
    """`folder`: images of one group (a patient, a video) stay in one part of every division. A column of the metadata file, or a
    regular expression on the path whose first group (or whole match) is the name."""

    test_fraction: Rare[float] = 0.2
    """Share of the images held out as the test set, by class, where the set has no `test` (or `val`) part of its own."""

    split_seed: Rare[int] = 0
    """Seed of that split. It is apart from the run's seed, so that runs of several seeds share one test set."""

    held_out_classes: Rare[float] = 0.0
    """Share of the classes, drawn with `split_seed`, that training never sees: what the open-set protocol tests on. Without it
    `omniglot` has its evaluation alphabets for that."""

    rotations: Rare[bool] = False
    """Train on every image turned by 90, 180 and 270 degrees too, as images of three further classes (Santoro et al. 2016)."""

    label_fraction: Rare[float] = 1.0
    """Train on this share of every class (at least one image of each), drawn with `split_seed`; 0.01 is 1 % of the labels."""

    validation: Rare[float] = 0.0
    """Share of the training images, by class, kept from training to watch it and to calibrate on."""

    limit: Rare[int | None] = None
    """Train on this many images only, drawn with `split_seed`; None takes all."""

    broken: Rare[Literal["refuse", "skip"]] = "refuse"
    """Files that do not decode. `refuse`: they are named; a resident set does not start, another ends at the step that meets
    one, with a checkpoint. `skip`: all files are tried first, and those left out are named; one that breaks later is replaced."""

    device_resident: Runtime[Rare[Literal["auto", "yes", "no"]]] = "auto"
    """Keep the whole set as one uint8 tensor on the device. `auto`: when it takes under a quarter of the free memory."""

    workers: Runtime[int] = 2
    """Decoding processes for each training process, where the set is not resident."""

    download: Runtime[Rare[bool]] = True
    """Let torchvision download a named set that is not under `path` yet."""

    @property
    def keeps_classes_apart(self) -> bool:
        """Whether the set itself has classes that are for scoring alone, by one look at each."""
        return self.source == "omniglot"

    @property
    def has_new_classes(self) -> bool:
        """Whether there are classes of the set that training never sees."""
        return self.held_out_classes > 0 or self.keeps_classes_apart

    def __post_init__(self) -> None:
        expand_fields(self, "path", "labels")
        known = known_sources()
        own = f"one of {', '.join(known)}, or your own with --plugin MODULE"
        require(self.source in (*known, GIVEN), "data.source", self.source, own)
        require(self.size >= 8, "data.size", self.size, "at least 8 pixels")
        require(self.channels >= 1, "data.channels", self.channels, "at least 1")
        require(self.max_pixels >= 1, "data.max_pixels", self.max_pixels, "at least 1")
        if not isinstance(self.value_range, str):
            low, high = self.value_range
            require(low < high, "data.value_range", self.value_range, "two finite numbers, the lower first")
        require(0 < self.test_fraction < 1, "data.test_fraction", self.test_fraction, "strictly between 0 and 1")
        require(0 <= self.held_out_classes < 1, "data.held_out_classes", self.held_out_classes, "in [0, 1)")
        require(0 < self.label_fraction <= 1, "data.label_fraction", self.label_fraction, "in (0, 1]")
        require(0 <= self.validation < 1, "data.validation", self.validation, "in [0, 1)")
        require(self.workers >= 0, "data.workers", self.workers, "0 or more")
        require(self.limit is None or self.limit > 0, "data.limit", self.limit, "a positive number, or none")
        if self.path is not None and self.source == "digits":
            raise ConfigError(
                f"data.path={self.path} names a folder, which data.source=digits does not read; add --data.source folder, or "
                "for pretraining begin with the preset folder"
            )
        if isinstance(self.labels, Path) and self.source not in ("folder", *PACKED):
            raise ConfigError(f"data.labels={self.labels} names a file, which data.source={self.source} does not read")


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """Which images come together in a batch."""

    name: Literal["shuffle", "classes", "mined"] = "shuffle"
    """`shuffle`: a fresh permutation every epoch. `classes`: P classes of K images, the rest of the batch at random.
    `mined`: triplets mined offline, every few epochs, with the latest weights (Schroff et al. 2015, section 3.2)."""

    classes: int = 16
    """`classes`: classes P in a batch."""

    per_class: int = 4
    """`classes`: images K of each class; classes x per_class below the batch size is FaceNet's mix with random negatives."""

    mine_every: int = 1
    """`mined`: epochs between two minings."""

    mine_images: int = 10_000
    """`mined`: images, drawn afresh each time, among which triplets are looked for."""

    mine_strategy: Literal["hard", "semi-hard"] = "semi-hard"
    """`mined`: an anchor's farthest positive and nearest negative, or the nearest negative beyond a positive."""

    mine_margin: float = 0.2
    """`mined`: triplets whose negative is farther than the positive by this teach nothing and are left out."""

    def __post_init__(self) -> None:
        require(self.classes >= 1, "sampler.classes", self.classes, "at least 1")
        require(self.per_class >= 1, "sampler.per_class", self.per_class, "at least 1")
        require(self.mine_every >= 1, "sampler.mine_every", self.mine_every, "at least 1")
        require(self.mine_images >= 3, "sampler.mine_images", self.mine_images, "at least 3")
        require(self.mine_margin > 0, "sampler.mine_margin", self.mine_margin, "positive")
