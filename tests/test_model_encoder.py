"""Backbones and heads: what timm gives, the small-image stem, widths, seeds, and names that are wrong."""

import pytest
import torch
from huggingface_hub import constants
from torch import nn

from simclr.config import EncoderConfig, HeadConfig
from simclr.errors import ConfigError
from simclr.model.encoder import build_backbone, feature_width
from simclr.model.heads import projection_head


@pytest.mark.parametrize(
    ("name", "width"),
    [("resnet18", 512), ("vit_tiny_patch16_224", 192), ("convnext_atto", 320), ("mobilenetv4_conv_small", 1280)],
)
def test_any_backbone_gives_flat_features_at_32_px(name: str, width: int) -> None:
    backbone = build_backbone(EncoderConfig(name=name), 32, seed=0)
    assert backbone.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, width)
    assert feature_width(backbone, 32) == width


def test_small_image_stem_keeps_the_resolution() -> None:
    for name in ("resnet18", "resnet50d"):  # the second has a stem of three convolutions
        backbone = build_backbone(EncoderConfig(name=name), 32, seed=0)
        seen = []
        backbone.layer1.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0].shape[-2:]))
        backbone.eval()(torch.zeros(1, 3, 32, 32))
        assert seen == [(32, 32)]
        assert backbone.conv1.kernel_size == (3, 3)
        assert isinstance(backbone.maxpool, nn.Identity)


def test_stem_follows_the_size_and_the_request() -> None:
    assert build_backbone(EncoderConfig(name="resnet18"), 224, seed=0).conv1.kernel_size == (7, 7)
    assert build_backbone(EncoderConfig(name="resnet18", stem="imagenet"), 32, seed=0).conv1.kernel_size == (7, 7)
    with pytest.raises(ConfigError, match="stem=small is for ResNets"):
        build_backbone(EncoderConfig(name="convnext_atto", stem="small"), 32, seed=0)


def test_weights_follow_the_seed_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = (build_backbone(EncoderConfig(name="resnet18", channels=(4, 4, 4, 4)), 32, s) for s in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters()))
    assert not torch.equal(one.conv1.weight, other.conv1.weight)


def test_batchnorm_is_untouched_by_the_width_probe() -> None:
    backbone = build_backbone(EncoderConfig(name="resnet18", channels=(4, 4, 4, 4)), 32, seed=0)
    assert backbone.training
    assert backbone.bn1.num_batches_tracked == 0


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (EncoderConfig(name="resnet81"), "did you mean resnet"),
        (EncoderConfig(name="convnext_atto", layers=(1, 1)), "convnext_atto does not take layers"),
        (EncoderConfig(name="vit_tiny_patch16_224", patch_size=64), "vit_tiny_patch16_224"),
        (EncoderConfig(name="resnet18", channels=(4, 8)), "encoder.channels is (4, 8); a ResNet has four stages"),
        (EncoderConfig(name="resnet18", layers=(1, 1, 1, 1, 1)), "encoder.layers is (1, 1, 1, 1, 1)"),
    ],
)
def test_a_wrong_encoder_is_one_line(config: EncoderConfig, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        build_backbone(config, 32, seed=0)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("layers", "linears"), [(0, 0), (1, 1), (2, 2), (3, 3)])
def test_head_layers_and_widths(layers: int, linears: int) -> None:
    head = projection_head(24, HeadConfig(layers=layers, out_dim=8))
    assert sum(isinstance(m, nn.Linear) for m in head.modules()) == linears
    assert head(torch.randn(6, 24)).shape == (6, 8 if layers else 24)
    hidden = [m for m in head.modules() if isinstance(m, nn.Linear)][:-1]
    assert all(m.out_features == 24 and m.bias is None for m in hidden)
    if layers:
        last = [m for m in head.modules() if isinstance(m, nn.BatchNorm1d)][-1]
        assert not last.bias.requires_grad  # the paper's last BatchNorm has no shift


def test_head_without_batch_norm_has_biases() -> None:
    head = projection_head(8, HeadConfig(layers=2, out_dim=4, batch_norm=False))
    assert not any(isinstance(m, nn.BatchNorm1d) for m in head.modules())
    assert all(m.bias is not None for m in head.modules() if isinstance(m, nn.Linear))


@pytest.mark.parametrize("proxies", [{}, {"https": "http://proxy:3128"}])
def test_without_a_network_published_weights_are_one_line(
    monkeypatch: pytest.MonkeyPatch, proxies: dict[str, str]
) -> None:
    offline: list[bool] = []

    def no_name_server(*arguments: object) -> None:
        raise OSError(-2, "Name or service not known")

    def create(name: str, **options: object) -> None:
        offline.append(constants.HF_HUB_OFFLINE)
        raise RuntimeError("cannot find the file.\nAnd more.")

    before = constants.HF_HUB_OFFLINE
    monkeypatch.setattr("socket.getaddrinfo", no_name_server)
    monkeypatch.setattr("simclr.model.encoder.getproxies", lambda: proxies)
    monkeypatch.setattr("timm.create_model", create)
    with pytest.raises(
        ConfigError, match=r"of resnet18: cannot find the file; a file of them, .* --encoder.init FILE$"
    ):
        build_backbone(EncoderConfig(name="resnet18", pretrained=True), 64, seed=0)
    assert offline == [before or not proxies]  # behind a proxy nobody here knows the hub's address
    assert before == constants.HF_HUB_OFFLINE
