"""An encoder at another image size than it was trained at, and the map that it pools its vector from."""

import re
from pathlib import Path

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed
from timm.models import beit, swin_transformer
from torch import nn

import simclr
from augment import AugmentConfig, preprocess
from simclr.config import EncoderConfig
from simclr.errors import CheckpointError, ConfigError
from simclr.exchange.encoder import export_encoder
from simclr.exchange.imported import start_from
from simclr.exchange.positions import at_other_size
from simclr.model.dense import feature_map
from simclr.model.encoder import build_backbone

VIT = EncoderConfig(name="test_vit", patch_size=8)
RESNET = EncoderConfig(name="resnet18", layers=(1, 1, 1, 1), channels=(4, 8, 8, 16))


def exported(folder: Path, config: EncoderConfig) -> tuple[Path, nn.Module]:
    """An encoder at 32 px, and its backbone."""
    backbone = build_backbone(config, 32, seed=3).eval()
    augment = AugmentConfig(size=32, mean=(0.4,), std=(0.2,))
    return export_encoder(backbone, folder, config=config, augment=augment, seed=3, training={}), backbone


@torch.no_grad()
def test_a_transformer_at_another_size_is_the_one_that_timm_makes(tmp_path: Path) -> None:
    folder, backbone = exported(tmp_path / "vit", VIT)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    theirs = timm.create_model("test_vit", patch_size=8, img_size=64, num_classes=0).eval()
    state = backbone.state_dict()
    state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], [8, 8], [4, 4], num_prefix_tokens=1)
    theirs.load_state_dict(state)
    encoder = simclr.load_encoder(folder, size=64)
    assert (encoder.size, encoder.reader.size) == (64, 64)
    prepared = preprocess(images, 64, (0.4,), (0.2,))
    torch.testing.assert_close(encoder(images), theirs(prepared), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(encoder(images), simclr.load_encoder(folder)(images))

    tokens = theirs.forward_features(prepared)[:, 1:]  # (2, 64, F), row by row
    found = simclr.load_encoder(folder, size=64, features="map")(images)
    assert found.shape == (2, 64, 8, 8)
    torch.testing.assert_close(found[1, :, 2, 5], tokens[1, 2 * 8 + 5], rtol=1e-5, atol=1e-5)

    tuned = build_backbone(VIT, 64, seed=0).eval()  # what fine-tuning at that size starts from
    assert "positions fitted from 4 x 4 patches to 8 x 8" in start_from(
        tuned, EncoderConfig(**vars(VIT) | {"init": str(folder)})
    )
    torch.testing.assert_close(tuned(prepared), theirs(prepared), rtol=1e-5, atol=1e-5)
    untrained = simclr.load_encoder(folder, untrained=True, size=64)
    assert untrained(images).shape == (2, 64)


@torch.no_grad()
def test_a_convolutional_network_at_another_size_and_its_map(tmp_path: Path) -> None:
    folder, backbone = exported(tmp_path / "resnet", RESNET)  # 3x3 stem: stem="auto" would mean another at 96 px
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    found = simclr.load_encoder(folder, size=96)
    torch.testing.assert_close(found(images), backbone(preprocess(images, 96, (0.4,), (0.2,))), rtol=1e-5, atol=1e-5)
    dense = simclr.load_encoder(folder, size=96, features="map")
    assert dense(images).shape == (2, 16, 12, 12) and dense.features == 16
    torch.testing.assert_close(dense(images).mean((2, 3)), found(images), rtol=1e-5, atol=1e-5)
    for size in (1, "96", (96, 96)):
        with pytest.raises(ConfigError, match=re.escape(f"size is {size!r}: expected one whole number, of at least 2")):
            simclr.load_encoder(folder, size=size)  # type: ignore[arg-type]  # a user's mistake
    with pytest.raises(ConfigError, match="features is 'maps': expected 'vector' or 'map'"):
        simclr.load_encoder(folder, features="maps")  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::UserWarning")
@torch.no_grad()
def test_tables_of_relative_positions_are_resampled_as_timm_does() -> None:
    def made(size: int) -> nn.Module:
        return beit.Beit(
            img_size=size, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=0, use_abs_pos_emb=False,
            use_rel_pos_bias=True,
        ).eval()  # fmt: skip

    images = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    small, large = made(32), made(48)
    for name, tensor in small.state_dict().items():
        if "relative_position_bias_table" in name:
            tensor.normal_()
    state, said = at_other_size(small.state_dict(), large)
    assert said == ["blocks.0.attn.relative_position_bias_table resampled from (52, 2) to (124, 2), and 1 more like it"]
    large.load_state_dict(state)
    small.set_input_size(img_size=(48, 48))
    torch.testing.assert_close(large(images), small(images), rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_a_map_whose_channels_come_last_is_turned() -> None:
    network = swin_transformer.SwinTransformer(
        img_size=32, patch_size=2, embed_dim=8, depths=(1, 1), num_heads=(1, 2), window_size=4, num_classes=0
    ).eval()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = feature_map(network, images)
    assert found.shape == (2, 16, 8, 8)
    torch.testing.assert_close(found.mean((2, 3)), network(images), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_size_and_a_map_that_a_network_does_not_have(tmp_path: Path) -> None:
    mixer = EncoderConfig(name="mixer_s32_224")  # its layers mix a fixed number of patches
    backbone = build_backbone(mixer, 64, seed=0)
    augment = AugmentConfig(size=64)
    folder = export_encoder(backbone, tmp_path / "mixer", config=mixer, augment=augment, seed=0, training={})
    with pytest.raises(CheckpointError, match=r"mixer_s32_224 cannot take images of 96 px: .* differences"):
        simclr.load_encoder(folder, size=96)

    class Odd(nn.Module):
        def forward_features(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)

    with pytest.raises(ConfigError, match=r"Odd gives features of shape .* no map"):
        feature_map(Odd(), torch.zeros(1, 3, 4, 4))
