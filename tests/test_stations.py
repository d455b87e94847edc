"""The same image at every station: training's reader, the score, the embedding, the encoder's file and its exports."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import timm
import torch
from PIL import Image
from torch import Tensor

import simclr
from augment import AugmentConfig, preprocess
from linear_eval import evaluate_run
from linear_eval.config import EvalConfig
from linear_eval.embed import EmbedOptions, embed_run
from linear_eval.scored_run import ScoredRun
from simclr.config import DataConfig, EncoderConfig, HeadConfig, LoopConfig, ScheduleConfig, TrainConfig
from simclr.config.normalisation import normalised_for
from simclr.data import ImageSet, load_source
from simclr.data.channels import shown_bands, with_channels
from simclr.data.decode import Reader
from simclr.errors import CheckpointError, ConfigError, DataError
from simclr.exchange.formats import ExportOptions, export_as
from simclr.finetune import finetune_config, parse_finetuning
from simclr.model.encoder import build_backbone, feature_width
from simclr.run.channels import channel_notes
from simclr.run.views import write_preview

TINY = EncoderConfig(name="resnet18", layers=(1, 1, 1, 1), channels=(4, 8, 8, 16))
PROTOCOL = EvalConfig(
    batch_size=16, strengths=(1.0,), labels_per_class=(1,), label_fractions=(), trials=1, resamples=50
)


def pictures(count: int, channels: int, largest: int, dtype: str) -> np.ndarray:
    """(N, H, W, C) blobs of values up to ``largest``, oblong, the two halves of N of different sizes of blobs."""
    generator = torch.Generator().manual_seed(0)
    coarse = [torch.rand(count // 2, channels, side, side, generator=generator) for side in (3, 9)]
    fine = torch.cat([torch.nn.functional.interpolate(x, (24, 36), mode="bilinear") for x in coarse])
    fine[:, :, 0, 0] = 1.0  # the whole range is used
    return (fine * largest).round().permute(0, 2, 3, 1).numpy().astype(dtype)


def folder_of(kind: str, root: Path, count: int = 48) -> int:
    """Two classes of images of one kind below ``root``; returns their number of channels."""
    channels, largest, dtype = {
        "4 bands": (4, 255, "uint8"),
        "4 deep bands": (4, 4095, "uint16"),
        "7 bands in numpy files": (7, 255, "uint8"),
        "12-bit PNG": (3, 4095, "uint16"),
        "gray": (1, 255, "uint8"),
    }[kind]
    values = pictures(count, 1 if kind == "12-bit PNG" else channels, largest, dtype)
    for number, image in enumerate(values):
        file = root / "pictures" / ("small" if number >= count // 2 else "large") / f"{number:02d}"
        file.parent.mkdir(parents=True, exist_ok=True)
        if "4" in kind:
            tifffile.imwrite(file.with_suffix(".tif"), image, photometric="minisblack", planarconfig="contig")
        elif "numpy" in kind:
            np.save(file.with_suffix(".npy"), image)
        else:
            Image.fromarray(image[..., 0]).save(file.with_suffix(".png"))
    return channels


def trained(root: Path, channels: int, fit: str, **data: object) -> Path:
    config = TrainConfig(
        name="run",
        out=root / "runs",
        data=DataConfig(
            source="folder", path=root / "pictures", size=20, channels=channels, fit=fit, workers=0, **data
        ),  # type: ignore[arg-type]  # each by its name
        augment=AugmentConfig(size=16, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        encoder=TINY,
        head=HeadConfig(out_dim=16),
        schedule=ScheduleConfig(warmup_epochs=0),
        train=LoopConfig(epochs=1, batch_size=16, precision="fp32", knn_every=1, log_every=1, checkpoint_every=99),
    )
    return simclr.pretrain(config).run_dir


@pytest.mark.parametrize(
    ("kind", "fit"),
    [
        ("4 bands", "crop"),
        ("4 deep bands", "pad"),
        ("7 bands in numpy files", "crop"),
        ("12-bit PNG", "stretch"),
        ("gray", "pad"),
    ],
)
def test_an_image_has_the_same_features_at_every_station(kind: str, fit: str, tmp_path: Path) -> None:
    channels = folder_of(kind, tmp_path)
    run = trained(tmp_path, channels, fit)
    data = simclr.config.yaml.load_config(run / "config.yaml").data
    encoder = simclr.load_encoder(run)
    assert (encoder.channels, encoder.fit) == (channels, fit)
    deep = "deep" in kind or "12" in kind
    assert encoder.value_range == ((0, 4095) if deep else None)

    result = evaluate_run(run, config=PROTOCOL)
    assert result["data"]["test"]["images"] == 10 and (run / "result.json").exists()

    # Of the embedding's images as they are told by the encoder's folder alone.
    elsewhere = DataConfig(source="folder", path=data.path, size=data.size, workers=0)
    found = embed_run(run, EmbedOptions(out=tmp_path / "x.npz", data=elsewhere))
    files = [tmp_path / "pictures" / name for name in found.names]
    read = torch.cat([encoder.read(file) for file in files])
    assert read.shape == (48, channels, 20, 20) and read.dtype == torch.uint8
    assert read.float().std() > 20  # neither black nor white
    with torch.no_grad():
        features = encoder(read)
    torch.testing.assert_close(found.features.x, features, atol=1e-5, rtol=1e-4)

    # What training saw, and what the scores see.
    for split in ("train", "test"):
        images = load_source(data, split)
        assert images.paths is not None
        for row in (0, 5):
            assert torch.equal(images[row][0], encoder.read(images.paths[row])[0])
    nearest = embed_run(run, EmbedOptions(query=(files[3],), k=1, data=elsewhere)).neighbours[files[3]]
    assert nearest[0][1] == 3 and nearest[0][0] == pytest.approx(1, abs=1e-5)

    views = preprocess(read, 16)
    for form in ("torch", "timm"):
        exported = export_as(run, ExportOptions(format=form))  # type: ignore[arg-type]  # one of its words
        names = {"images": (views * 255).round().to(torch.uint8)}
        with torch.no_grad():
            exec("\n".join(exported.lines), names)  # as a user would, by the lines that are printed
            wanted = encoder(names["images"])
        torch.testing.assert_close(names["features"], wanted, atol=1e-4, rtol=1e-3)
    said = json.loads((run / "export" / "torch" / "model.json").read_text())
    assert (said["channels"], said["fit"]) == (channels, fit)
    assert said["value_range"] == ([0, 4095] if deep else None)
    timms = json.loads((run / "export" / "timm" / "config.json").read_text())["pretrained_cfg"]
    assert timms["input_size"] == [channels, 16, 16] and len(timms["mean"]) == len(timms["std"]) == channels
    assert timms["crop_mode"] == {"crop": "center", "pad": "border", "stretch": "squash"}[fit]


def test_raw_integers_are_the_values_of_a_file(tmp_path: Path) -> None:
    folder_of("4 deep bands", tmp_path, count=32)
    encoder = simclr.load_encoder(trained(tmp_path, 4, "crop"))
    file = tmp_path / "pictures" / "large" / "00.tif"
    stored = torch.from_numpy(tifffile.imread(file)).permute(2, 0, 1)[None, :, :20, :20]
    mapped = (stored.double() / 4095 * 255).round().to(torch.uint8)
    for kind in (torch.uint16, torch.int16, torch.int32):
        assert torch.equal(encoder(stored.to(kind)), encoder(mapped))
    with pytest.raises(TypeError, match=r"torch\.int64"):
        encoder(stored.long())
    with pytest.raises(ValueError, match=r"expected \(B, C, H, W\) with C = 4; got C = 3, .* trained on 4"):
        encoder(mapped[:, :3])
    with pytest.raises(DataError, match=r"--data\.channels"):
        Image.new("RGB", (20, 20)).save(tmp_path / "rgb.png")
        encoder.read(tmp_path / "rgb.png")


def test_a_file_with_nothing_new_in_it_keeps_the_format_that_every_version_reads(tmp_path: Path) -> None:
    folder_of("gray", tmp_path, count=32)
    described = json.loads((trained(tmp_path, 3, "crop") / "encoder" / "encoder.json").read_text())
    assert described["format"] == 1
    assert (described["channels"], described["fit"], described["value_range"]) == (3, "crop", None)
    for name in ("channels", "fit", "value_range", "read_size", "deep_only", "sha256"):
        del described[name]  # as earlier versions wrote it
    (tmp_path / "runs/run/encoder/encoder.json").write_text(json.dumps(described))
    encoder = simclr.load_encoder(tmp_path / "runs/run")
    assert (encoder.channels, encoder.fit, encoder.value_range) == (3, "crop", None)
    deep = tmp_path / "deep"
    folder_of("12-bit PNG", deep, count=32)
    assert json.loads((trained(deep, 1, "crop") / "encoder" / "encoder.json").read_text())["format"] == 2


def test_weights_of_another_number_of_channels_are_refused_in_words(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder_of("4 bands", tmp_path, count=32)
    run = trained(tmp_path, 4, "pad")
    config = finetune_config(str(run))
    assert (config.data.channels, config.data.fit, config.augment.mean) == (4, "pad", (0.449,))
    digits = replace(config, data=DataConfig(source="digits", size=16), out=tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"trained on images of 4 channels, these have 3; .*--data.channels 4"):
        simclr.pretrain(digits)
    assert not (tmp_path / "other").exists()
    other = DataConfig(source="folder", path=tmp_path / "pictures", channels=2)
    with pytest.raises(ConfigError, match=r"data\.channels is 2, and the encoder was trained on images of 4"):
        ScoredRun.at(run).images(other)
    # A file of weights alone says it too; one for RGB is fitted.
    for channels in (2, 3):
        weights = tmp_path / f"{channels}.pth"
        torch.save(build_backbone(TINY, 16, seed=0, channels=channels).state_dict(), weights)
        started = replace(
            config,
            encoder=replace(config.encoder, init=str(weights)),
            train=replace(config.train, batch_size=8, epochs=4),
            out=tmp_path / "runs" / str(channels),
        )
        if channels == 2:
            with pytest.raises(CheckpointError, match="its images have 2 channels, these 4"):
                simclr.pretrain(started)
        else:
            assert simclr.pretrain(started).finished
            assert "conv1.weight fitted from 3 channels to 4" in capfd.readouterr().err


def test_a_range_that_the_user_names_is_kept_and_one_of_deep_files_leaves_others_alone(tmp_path: Path) -> None:
    folder_of("12-bit PNG", tmp_path, count=32)
    run = ScoredRun.at(trained(tmp_path, 3, "crop"))
    data = DataConfig(source="folder", path=tmp_path / "other", size=20)
    assert run.images(data).value_range == (0, 4095)
    assert run.images(replace(data, value_range=(0, 100))).value_range == (0, 100)
    assert run.images(replace(data, fit="pad")).fit == "pad"
    own = run.images(None)
    assert run.data is not None and run.report_folder(own) == run.report_folder(run.data) == run.folder.parent
    assert run.report_folder(replace(own, value_range=(0, 100))) != run.folder.parent
    (tmp_path / "alone").mkdir()
    for name in ("encoder.json", "encoder.safetensors"):
        (tmp_path / "alone" / name).write_bytes((run.folder / name).read_bytes())
    alone = ScoredRun.at(tmp_path / "alone").images(DataConfig(source="folder", path=tmp_path / "pictures"))
    assert (alone.size, alone.value_range) == (
        20,
        (0, 4095),
    )  # as training read them, which only the encoder's file says
    for part in ("a", "b"):
        (tmp_path / "other" / part).mkdir(parents=True)
        for number in range(3):
            Image.new("L", (20, 20), 40 * number + 100).save(tmp_path / "other" / part / f"{number}.png")
    images = run.read_as_trained(load_source(run.images(data), "train"))
    assert sorted(int(images[i][0].max()) for i in range(len(images))) != [0] * len(images)
    assert int(images[0][0].min()) >= 100
    words = ["--encoder.init", str(run.folder), "--data.path", str(tmp_path / "other")]
    assert parse_finetuning(words, "finetune.py", "").data.value_range == "auto"


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("shape", [(60, 90), (90, 64), (10, 15)])
def test_a_reader_and_preprocess_mean_the_same_square(fit: str, shape: tuple[int, int], tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (6, 9, 3), dtype=np.uint8))
    coarse.resize(shape[::-1], Image.Resampling.BICUBIC).save(tmp_path / "x.png")
    whole = torch.from_numpy(np.array(Image.open(tmp_path / "x.png"))).permute(2, 0, 1)[None]
    square = Reader(size=32, fit=fit).square(tmp_path / "x.png")  # type: ignore[arg-type]  # one of its words
    ours = preprocess(whole, 32, fit=fit)[0]  # type: ignore[arg-type]
    assert (square.float() / 255 - ours).abs().mean() <= 1 / 255


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "convnext_atto", "efficientnet_b0"])
@pytest.mark.parametrize("channels", [1, 5])
def test_any_backbone_takes_any_number_of_channels(name: str, channels: int) -> None:
    backbone = build_backbone(EncoderConfig(name=name), 64, 0, channels)
    width = feature_width(backbone, 64, channels)
    assert backbone.eval()(torch.zeros(2, channels, 64, 64)).shape == (2, width)
    assert width == timm.create_model(name, num_classes=0).num_features


def test_published_values_of_colours_become_averages_and_others_are_refused() -> None:
    published = AugmentConfig(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    config = TrainConfig(data=DataConfig(source="folder", channels=4), augment=published)
    assert config.augment.mean == (pytest.approx((0.485 + 0.456 + 0.406) / 3),)
    assert config.augment.std == (pytest.approx((0.229 + 0.224 + 0.225) / 3),)
    assert channel_notes(config) == [
        "4 channels: saturation, hue and gray of the colour jitter do not act, which need the three of a colour",
        "4 channels: normalised by mean 0.449 and std 0.226, the averages of ImageNet's three",
    ]
    assert channel_notes(replace(config, data=replace(config.data, channels=3), augment=published)) == []
    own = AugmentConfig(mean=(0.1, 0.2, 0.3, 0.4), std=(0.1, 0.2, 0.3, 0.4))
    assert normalised_for(4, own) is own
    with pytest.raises(
        ConfigError, match=r"augment.mean and augment.std have 4 values, data.channels is 7: .*--augment.mean"
    ):
        TrainConfig(data=DataConfig(source="folder", channels=7), augment=own)


def test_an_appended_operation_that_wants_colours_is_refused_before_training() -> None:
    data = DataConfig(source="folder", channels=4)
    with pytest.raises(ConfigError, match=r"RandomHue.* does not take images of 4 channels: "):
        channel_notes(TrainConfig(data=data, augment=AugmentConfig(extra=("RandomHue(hue=(-0.2, 0.2), p=1.0)",))))
    quiet = AugmentConfig(jitter=0.0, gray=0.0, extra=("RandomErasing(p=1.0)", "RandomChannelShuffle(p=1.0)"))
    assert channel_notes(TrainConfig(data=data, augment=quiet)) == []


@pytest.mark.parametrize(("channels", "bands"), [(1, [0, 0, 0]), (2, [0, 0, 0]), (3, [0, 1, 2]), (7, [0, 1, 2])])
def test_pictures_show_three_bands_or_the_first(channels: int, bands: list[int]) -> None:
    images: Tensor = torch.rand(2, channels, 4, 5)
    assert torch.equal(shown_bands(images), images[:, bands])


@pytest.mark.pictures
def test_the_preview_of_many_bands_is_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for channels in (2, 4):
        folder = tmp_path / str(channels)
        folder.mkdir()
        for number, image in enumerate(pictures(8, channels, 255, "uint8")):
            np.save(folder / f"{number}.npy", image)
        data = DataConfig(source="folder", path=folder, size=32, channels=channels)
        picture = write_preview(TrainConfig(name=f"of-{channels}", data=data, augment=AugmentConfig(size=32)), 4)
        assert np.asarray(Image.open(picture).convert("RGB")).std() > 10


def test_named_sets_come_in_gray_or_are_refused() -> None:
    colours = load_source(DataConfig(source="digits", size=16), "train")
    gray = load_source(DataConfig(source="digits", size=16, channels=1), "train")
    assert gray.pixels is not None and colours.pixels is not None and gray.reader.channels == 1
    assert torch.equal(gray.pixels.expand(-1, 3, -1, -1), colours.pixels)
    noise = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8)
    images = ImageSet.from_pixels(noise, labels=None, classes=(), name="noise")
    pillows = [np.array(Image.fromarray(x.permute(1, 2, 0).numpy()).convert("L")) for x in noise]
    assert np.array_equal(with_channels(images, 1).pixels[:, 0].numpy(), np.stack(pillows))  # type: ignore[index]  # there
    with pytest.raises(ConfigError, match=r"data\.channels is 4, and the images of digits have 3"):
        load_source(DataConfig(source="digits", size=16, channels=4), "train")
