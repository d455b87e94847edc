"""A command that two processes share: what it makes of every image is what one process makes, and faults are the first one's."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.dataset as pa_dataset
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

from augment import AugmentConfig
from linear_eval import Features, extract_features
from linear_eval.embed import Embedded, EmbedOptions, embed_run
from linear_eval.features.parquet import PartsFolder
from linear_eval.sharing import Share, parts_of_whole_batches, shared, team
from simclr.config import DataConfig, EncoderConfig
from simclr.data import ImageSet
from simclr.errors import DataError
from simclr.exchange.encoder import export_encoder
from simclr.model.encoder import build_backbone

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"

WAYS = {
    "file.parquet": ("no", 0),
    "kept.parquet": ("yes", 0),
    "some.npz": ("yes", 0),
    "folder": ("no", 1),
}
"""Where embeddings go, whether images are kept decoded, and the workers that decode them."""


def embedded(encoder: Path, pictures: Path, out: Path, broken: str = "refuse", **options: object) -> Embedded:
    resident, workers = WAYS[out.name]
    data = DataConfig(
        source="folder",
        path=pictures,
        size=24,
        device_resident=resident,
        workers=workers,
        broken=broken,
        test_fraction=0.2,
    )
    return embed_run(encoder, EmbedOptions(out=out, data=data, batch_size=4, **options))


def rows_of(out: Path) -> Tensor:
    """What was written, whatever the format: (N, F)."""
    if out.suffix == ".parquet":
        column = pa_dataset.dataset(out).to_table()["embedding"].combine_chunks()
        return torch.from_numpy(column.flatten().to_numpy().reshape(-1, column.type.list_size).copy())
    return torch.from_numpy(np.load(out)["features"]) if out.suffix else Features.load(out).x.clone()


def all_ways(encoder: Path, pictures: Path, target: Path) -> dict[str, tuple[Tensor, list[str], list[str]]]:
    """Embeddings of every way, with the names of the images and of the two nearest to the first of them."""
    found = {}
    for name in WAYS:
        query = pictures / "cats" / "01.png"
        said = embedded(
            encoder,
            pictures,
            target / name,
            query=(query,),
            k=2,
            thumbnails=8 if name.endswith(".parquet") else None,
        )
        near = [said.names[row] for _, row in said.neighbours[query]]
        found[name] = (rows_of(target / name), list(said.names), near)
    return found


class Counted(nn.Module):
    """A row is the image's mean and how many images were in its batch."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([images.float().mean((1, 2, 3)), torch.full((len(images),), float(len(images)))], 1)


@dataclass(frozen=True)
class Ends:
    """A process that is gone in the midst of its share."""

    number: int

    def __call__(self, share: Share, beat: Callable[[int], None]) -> tuple[int, None]:
        if share.number == self.number:
            os._exit(0)
        return len(share.images), None


@shared
def in_the_first(encoder: str, pictures: str, out: str) -> int:
    """What the first process does, and the other helps with."""
    folder, target = Path(pictures), Path(out)
    led = team()
    assert led is not None and led.world == 2
    found = all_ways(Path(encoder), folder, target)
    images = ImageSet.from_pixels(
        torch.arange(9 * 3, dtype=torch.uint8).view(9, 3, 1, 1), labels=None, classes=(), name=""
    )
    told: list[int] = []
    few = extract_features(Counted(), images, 2, progress=lambda done, total: told.append(done))
    one = extract_features(Counted(), images.subset(torch.tensor([5])), 2)  # a process without any
    said = []
    last = sorted(folder.rglob("*.png"))[-1]
    content = last.read_bytes()
    last.write_bytes(b"spoilt")  # it is of the other process's share
    for name in ("kept.parquet", "file.parquet"):
        with pytest.raises(DataError) as error:
            embedded(Path(encoder), folder, target / name)
        said.append(str(error.value))
    left = embedded(Path(encoder), folder, target / "kept.parquet", broken="skip")
    rows = rows_of(target / "kept.parquet")
    last.write_bytes(content)
    torch.save(
        (
            found,
            few,
            one,
            told,
            said,
            left.left_out,
            left.count,
            rows,
            sorted(p.name for p in target.iterdir()),
        ),
        target / "found.pt",
    )
    with pytest.raises(RuntimeError, match=r"(closed|reset) by peer"):
        led.run(Ends(1), images, 2)
    return 3


def on(rank: int, port: int, *words: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    assert in_the_first(*words) == 3


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """An encoder folder of its own: a narrow ResNet of random weights for images of 24 px."""
    config = EncoderConfig(name="resnet18", layers=(1, 1, 1, 1), channels=(4, 4, 8, 8))
    backbone = build_backbone(config, 24, seed=3)
    return export_encoder(
        backbone, tmp_path / "encoder", config=config, augment=AugmentConfig(size=24), seed=3, training={}
    )


def test_two_processes_make_of_every_image_what_one_makes(
    ranks: Callable[..., None], free_port: Callable[[], int], encoder: Path, image_folder: Path, tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    alone = all_ways(encoder, image_folder, tmp_path / "one")
    ranks(2, on, free_port(), str(encoder), str(image_folder), str(tmp_path / "two"))
    found, few, one, told, said, left_out, count, rows, there = torch.load(
        tmp_path / "two" / "found.pt", weights_only=False
    )
    for name, (z, names, near) in alone.items():
        assert torch.equal(found[name][0], z) and found[name][1:] == (names, near)
        assert len(names) == len(set(names)) == len(list(image_folder.rglob("*.png")))
    # Rows and their order, labels and thumbnails too; two parts where one process writes a file.
    table = pq.read_table(tmp_path / "one" / "file.parquet")
    assert (
        table.equals(pa_dataset.dataset(tmp_path / "two" / "file.parquet").to_table()) and "image" in table.column_names
    )
    assert [p.name for p in sorted((tmp_path / "two" / "file.parquet").iterdir())] == [
        "part-00000.parquet", "part-00001.parquet",
    ]  # fmt: skip
    means = (3 * torch.arange(9) + 1).float()
    assert torch.equal(few.x, torch.stack([means, torch.tensor([2.0] * 8 + [1.0])], 1)) and few.y.tolist() == [-1] * 9
    assert torch.equal(one.x, torch.tensor([[16.0, 1.0]])) and told[-1] == 9
    # A broken file is one line with its name; with skip it alone is left out, and the batches behind it are one process's.
    last = sorted(image_folder.rglob("*.png"))[-1]
    assert said[0].startswith(f"1 of {len(alone['some.npz'][1])} files do not decode: {last}") and str(last) in said[1]
    assert left_out == (last,) and count == len(rows) == len(alone["some.npz"][1]) - 1
    last.write_bytes(b"spoilt")
    embedded(encoder, image_folder, tmp_path / "one" / "kept.parquet", broken="skip")
    assert torch.equal(rows, rows_of(tmp_path / "one" / "kept.parquet"))
    torch.set_num_threads(threads)
    assert there == ["file.parquet", "folder", "folder.csv", "kept.parquet", "some.npz"]  # and nothing half-written


@pytest.mark.long
@pytest.mark.parametrize("protocol", ["closed", "open-set", "one-shot"])
def test_a_score_under_torchrun_is_that_of_one_process(
    protocol: str, encoder: Path, image_folder: Path, tmp_path: Path
) -> None:
    """Every figure to the last bit, but for seconds; one process speaks."""
    words = [str(SCRIPTS / "evaluate.py"), str(encoder), "--data.source", "folder", "--data.path", str(image_folder)]
    words += ["--protocol", protocol, "--eval.batch-size", "4", "--eval.trials", "2", "--eval.strengths", "1"]
    launchers = {"one": [sys.executable], "two": ["torchrun", "--nproc_per_node", "2", "--master_port", "0"]}
    results, said = [], []
    for name, launcher in launchers.items():
        done = subprocess.run(
            [*launcher, *words, "--out", str(tmp_path / name)],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        file = {"closed": "result"}.get(protocol, protocol)
        results.append(without_seconds(json.loads((tmp_path / name / f"{file}.json").read_text())))
        said.append(done.stdout)
    assert results[0] == results[1] and said[0] == said[1]


def without_seconds(found: object) -> object:
    if isinstance(found, dict):
        return {
            key: without_seconds(item) for key, item in found.items() if key not in ("seconds", "verification_file")
        }
    return found


def test_one_process_writes_a_file_over_parts_and_parts_that_were_left_half_way_go(
    encoder: Path, image_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "file.parquet"
    embedded(encoder, image_folder, out)
    whole = pq.read_table(out)
    folder = PartsFolder(out)
    for _ in range(2):  # the second finds what a process that was killed left
        folder.begin()
        pq.write_table(whole.slice(0, 7), folder.part(0))
    pq.write_table(whole.slice(7), folder.part(2))
    folder.finish([7, 0, len(whole) - 7])
    assert pa_dataset.dataset(out).to_table().equals(whole)
    embedded(encoder, image_folder, out)
    assert out.is_file() and pq.read_table(out).equals(whole)
    assert sorted(p.name for p in tmp_path.iterdir() if "parquet" in p.name) == ["file.parquet"]


@pytest.mark.parametrize(("count", "batch", "world"), [(1, 4, 3), (60_000, 256, 7), (13, 5, 2), (12, 4, 3)])
def test_shares_are_whole_batches_of_equal_number(count: int, batch: int, world: int) -> None:
    shares = parts_of_whole_batches(count, batch, world)
    assert [row for start, stop in shares for row in range(start, stop)] == list(range(count))
    assert all(start % batch == 0 for start, _ in shares if start < count)
    batches = [-(-(stop - start) // batch) for start, stop in shares]
    assert max(batches) - min(batches) <= 1


def test_without_a_launcher_it_is_the_command_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert shared(lambda: 5)() == 5 and team() is None
