"""Random crops are cut from the picture's own pixels: against Pillow, and whoever cuts them, and however often a run stops."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file
from torch import Tensor

import simclr
from augment import AugmentConfig, ViewGenerator
from augment.crops import crop_boxes, crop_uniforms
from augment.fused.crop import crop_by_interpolation
from augment.views import cut_out
from simclr.config import DataConfig, EncoderConfig, HeadConfig, LoopConfig, OptimConfig, ScheduleConfig, TrainConfig
from simclr.data import Batches, EpochSampler, load_source, place
from simclr.data.cut import CropPlan, Cut, cut_views
from simclr.data.decode import Reader
from simclr.data.originals import Originals
from simclr.errors import ConfigError, DataError

CPU = torch.device("cpu")
AUGMENT = AugmentConfig(size=24)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Something smooth, whose every part is different."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (max(2, height // 64), max(2, width // 64), 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def saved(path: Path, kind: str) -> Path:
    image = picture(300, 420)
    if kind == "turned jpeg":
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(path / "x.jpg", quality=95, exif=exif)
        return path / "x.jpg"
    if kind == "gray jpeg":
        image.convert("L").save(path / "x.jpg", quality=95)
        return path / "x.jpg"
    if kind == "cmyk jpeg":
        image.convert("CMYK").save(path / "x.jpg", quality=95)
        return path / "x.jpg"
    ending = {"jpeg": ".jpg", "png": ".png", "large jpeg": ".jpg", "jpeg with a tail": ".jpg"}[kind]
    if kind == "large jpeg":
        image = picture(1200, 1680)
    file = path / f"x{ending}"
    image.save(file, **({"quality": 95} if ending == ".jpg" else {}))
    if kind == "jpeg with a tail":
        file.write_bytes(file.read_bytes() + b"more")
    return file


@pytest.mark.parametrize(
    "kind", ["jpeg", "turned jpeg", "gray jpeg", "cmyk jpeg", "png", "large jpeg", "jpeg with a tail"]
)
def test_a_view_is_the_crop_that_pillow_cuts_of_the_whole_picture(kind: str, tmp_path: Path) -> None:
    file = saved(tmp_path, kind)
    whole = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
    uniforms = crop_uniforms(AUGMENT, 6, seed=3)
    for place_ in range(6):
        boxes = partial(crop_boxes, AUGMENT, uniforms[..., place_ : place_ + 1])
        cut = cut_views(Reader(size=16), file, 0, lambda h, w, boxes=boxes: boxes(h, w)[:, 0], 24)
        assert cut.size.tolist() == [whole.height, whole.width]
        for view, (top, left, height, width) in zip(cut.views, cut.boxes.tolist(), strict=True):
            crop = whole.crop((left, top, left + width, top + height))
            expected = np.asarray(crop.resize((24, 24), Image.Resampling.BILINEAR), dtype=np.float32)
            difference = np.abs(view.permute(1, 2, 0).numpy().astype(np.float32) - expected)
            # A JPEG that is decoded at a smaller scale is averaged there by another filter, and stays sharper.
            assert difference.mean() < (1 if kind == "png" else 5)


def test_boxes_are_those_of_the_generator_where_images_have_one_size() -> None:
    drawn = ViewGenerator(AUGMENT).sample(8, (50, 70), seed=5)
    uniforms = crop_uniforms(AUGMENT, 8, seed=5)
    one_size = crop_boxes(AUGMENT, uniforms, 50, 70)
    own = crop_boxes(AUGMENT, uniforms, torch.full((8,), 50), torch.full((8,), 70))
    assert torch.equal(one_size, drawn.crop) and torch.equal(own, drawn.crop)


@pytest.mark.parametrize("size", [(400, 3), (3, 400), (1, 1), (7, 5), (100, 300)])
def test_boxes_lie_in_their_image_and_are_those_of_its_size_alone(size: tuple[int, int]) -> None:
    uniforms = crop_uniforms(AUGMENT, 64, seed=1)
    sizes = torch.tensor([size, (50, 70)]).repeat(32, 1)
    boxes = crop_boxes(AUGMENT, uniforms, sizes[:, 0], sizes[:, 1])
    top, left, height, width = boxes.unbind(-1)
    assert (boxes[..., 2:] > 0).all() and (boxes[..., :2] >= 0).all()
    assert (top + height <= sizes[:, 0]).all() and (left + width <= sizes[:, 1]).all()
    assert torch.equal(boxes[:, 0::2], crop_boxes(AUGMENT, uniforms[..., 0::2], *size))


def test_every_pixel_of_a_tall_picture_is_seen() -> None:
    """Of a square from its middle, two thirds of a picture of 3 : 1 would never be."""
    seen = torch.zeros(300, 100, dtype=torch.bool)
    boxes = crop_boxes(AUGMENT, crop_uniforms(AUGMENT, 4000, seed=0), 300, 100)
    for top, left, height, width in boxes.flatten(0, 1).tolist():
        seen[top : top + height, left : left + width] = True
    assert seen.any(1).all() and seen.any(0).all() and seen.float().mean() > 0.99


def test_finishing_crops_that_were_cut_is_applying_to_the_whole() -> None:
    generator = ViewGenerator(AugmentConfig(size=24, blur=0.5, solarize=0.2, affine=0.5))
    images = torch.stack([torch.from_numpy(np.array(picture(60, 48, i))).permute(2, 0, 1) for i in range(5)])
    drawn = generator.sample(5, (48, 60), seed=2)
    cut = cut_out(images, drawn.crop, 24, antialias=True)
    torch.testing.assert_close(generator.finish(cut, drawn), generator.apply(images, drawn), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="expected \\(2, 5, C, 24, 24\\)"):
        generator.finish(cut[:, :3], drawn)


def test_a_resident_set_keeps_shapes_and_cuts_as_one_image_by_itself() -> None:
    shapes = [(40, 30), (30, 45), (30, 30), (60, 30)]
    images = [torch.from_numpy(np.array(picture(w, h, i))).permute(2, 0, 1) for i, (h, w) in enumerate(shapes)]
    originals = Originals.of(images)
    assert originals.pixels.shape == (4, 3, 60, 30)
    index = torch.tensor([3, 1, 0])
    boxes = crop_boxes(AUGMENT, crop_uniforms(AUGMENT, 3, seed=0), *originals.sizes[index].T)
    cut = originals.subset(index).cut(torch.arange(3), boxes, 24)
    for view in range(2):
        for row, i in enumerate(index.tolist()):
            expected = crop_by_interpolation(images[i], boxes[view, row].tolist(), 24, False, True)[0]
            torch.testing.assert_close(cut.views[view, row], expected, atol=1e-5, rtol=0)


def test_a_file_that_is_cut_off_is_named_by_the_words_of_the_reader(tmp_path: Path) -> None:
    file = saved(tmp_path, "jpeg")
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(DataError, match="truncated") as cut:
        cut_views(Reader(size=16), file, 0, lambda h, w: torch.tensor([[0, 0, h, w]]), 24)
    with pytest.raises(DataError) as read:
        Reader(size=16).read(file)
    assert str(cut.value) == str(read.value)


def test_a_strip_is_cut_without_being_enlarged(tmp_path: Path) -> None:
    Image.new("RGB", (65_000, 1), (9, 99, 199)).save(tmp_path / "strip.png")
    draw = partial(crop_boxes, AUGMENT, crop_uniforms(AUGMENT, 1, seed=0))
    cut = cut_views(Reader(size=224), tmp_path / "strip.png", 0, lambda h, w: draw(h, w)[:, 0], 224)
    assert cut.views.shape == (2, 3, 224, 224)
    assert cut.views.float().mean((0, 2, 3)).tolist() == pytest.approx([9, 99, 199])


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """24 pictures of many shapes in two classes."""
    for i in range(24):
        folder = tmp_path / "photographs" / ("tall" if i % 2 else "wide")
        folder.mkdir(parents=True, exist_ok=True)
        shape = (30 + i, 60) if i % 2 else (64, 33 + i)
        picture(*shape, i).save(folder / f"{i:02d}.jpg", quality=92)
    return tmp_path / "photographs"


def batches(root: Path, rank: int = 0, world: int = 1, workers: int = 0, resident: bool = False) -> list[Cut]:
    images = load_source(DataConfig(source="folder", path=root, size=24, test_fraction=1 / 3), "train")
    images = place(images, CPU, "yes" if resident else "no", shapes=True)
    plan = CropPlan(configs=(replace(AUGMENT, size=16), AUGMENT), ends=(1,), batch=8, seed=0)
    sampler = EpochSampler(images=len(images), batch_size=8, seed=0)
    found = Batches(
        images, sampler, CPU, start=0, stop=2, rank=rank, world=world, workers=workers, plan=plan
    )  # fmt: skip
    cuts = [batch.images for batch in found]
    assert all(isinstance(cut, Cut) for cut in cuts)
    return cuts  # type: ignore[return-value]


@pytest.mark.parametrize("resident", [False, True])
def test_processes_share_the_crops_of_one_and_views_grow_with_the_steps(photographs: Path, resident: bool) -> None:
    alone = batches(photographs, resident=resident)
    assert [cut.views.shape[-1] for cut in alone] == [16, 24]
    shared = [batches(photographs, rank, 2, resident=resident) for rank in range(2)]
    for step, cut in enumerate(alone):
        for part in ("views", "boxes"):
            both = torch.cat([getattr(of_rank[step], part) for of_rank in shared], dim=1)
            assert torch.equal(both, getattr(cut, part))
        assert len(cut.size.unique(dim=0)) > 2


def config(root: Path, out: Path, name: str, **data: object) -> TrainConfig:
    given = DataConfig(source="folder", path=root, size=24, test_fraction=1 / 3, **data)  # type: ignore[arg-type]
    return TrainConfig(
        name=name,
        out=out,
        data=given,
        augment=AugmentConfig(size=16),
        encoder=EncoderConfig(name="resnet18", layers=(1, 1, 1, 1), channels=(4, 4, 4, 8)),
        head=HeadConfig(out_dim=8),
        optim=OptimConfig(name="adamw", learning_rate=1e-3),
        schedule=ScheduleConfig(warmup_epochs=0),
        train=LoopConfig(epochs=2, batch_size=8, knn_every=0, precision="fp32", log_every=1),
    )


def weights(run: Path) -> dict[str, Tensor]:
    return load_file(run / "encoder" / "encoder.safetensors")


def test_runs_have_the_same_weights_whatever_the_number_of_workers(photographs: Path, tmp_path: Path) -> None:
    found = []
    for workers in (0, 1, 2):
        done = simclr.pretrain(config(photographs, tmp_path, f"w{workers}", device_resident="no", workers=workers))
        found.append(weights(done.run_dir))
    for other in found[1:]:
        assert all(torch.equal(found[0][name], other[name]) for name in found[0])


@pytest.mark.parametrize("resident", ["yes", "no"])
def test_square_crops_are_others_than_those_of_the_picture(photographs: Path, tmp_path: Path, resident: str) -> None:
    runs = [
        simclr.pretrain(config(photographs, tmp_path, crops, device_resident=resident, crops=crops, workers=0))
        for crops in ("original", "square")
    ]
    a, b = (weights(run.run_dir) for run in runs)
    assert not all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("begun", "free"), [("yes", False), ("no", True)])
def test_a_run_goes_on_with_the_crops_it_began_with_whatever_memory_is_free(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: str, free: bool
) -> None:
    undisturbed = weights(simclr.pretrain(config(photographs, tmp_path, "u", device_resident=begun, workers=0)).run_dir)
    auto = config(photographs, tmp_path, "stopped", workers=0)
    monkeypatch.setattr("simclr.run.division.fits_on", lambda *_: not free)
    simclr.pretrain(replace(auto, train=replace(auto.train, checkpoint_every=2)))
    for step in (tmp_path / "stopped" / "checkpoints").iterdir():
        if step.name != "step-00000002":
            shutil.rmtree(step)
    shutil.rmtree(tmp_path / "stopped" / "encoder")
    monkeypatch.setattr("simclr.run.division.fits_on", lambda *_: free)
    resumed = weights(simclr.pretrain(auto).run_dir)
    assert all(torch.equal(undisturbed[name], resumed[name]) for name in resumed)
    other = replace(auto, data=replace(auto.data, device_resident="no" if begun == "yes" else "yes"))
    with pytest.raises(ConfigError, match=r"would cut them .*leave it out"):
        simclr.pretrain(other)


def test_a_run_that_was_begun_before_there_was_a_choice_goes_on_with_squares(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    square = config(photographs, tmp_path, "before", crops="square", workers=0)
    undisturbed = weights(simclr.pretrain(replace(square, name="undisturbed")).run_dir)
    simclr.pretrain(replace(square, train=replace(square.train, checkpoint_every=2)))
    folder = tmp_path / "before"
    written = folder / "config.yaml"
    written.write_text("".join(line for line in written.read_text().splitlines(True) if "crops:" not in line))
    for step in (folder / "checkpoints").iterdir():
        if step.name != "step-00000002":
            for file in step.iterdir():
                file.unlink()
            step.rmdir()
    (folder / "encoder" / "encoder.safetensors").unlink()
    again = replace(square, data=replace(square.data, crops="original"))
    assert simclr.pretrain(again).finished
    assert "data.crops is square" in capsys.readouterr().err
    found = weights(folder)
    assert all(torch.equal(found[name], undisturbed[name]) for name in undisturbed)
