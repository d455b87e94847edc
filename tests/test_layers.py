"""Layers of a backbone against numbers written out by hand, and what freezing and layer decay do to a training run."""

import warnings
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

import simclr
from simclr.config import EncoderConfig, TrainConfig
from simclr.errors import ConfigError
from simclr.losses import CrossEntropyConfig, TripletConfig
from simclr.model.contrastive import build_model
from simclr.model.layers import freeze, layer_decay, layer_numbers
from simclr.optim.optimizers import parameter_groups

RESNET18 = {
    "conv1": 0, "bn1": 0,
    "layer1.0": 1, "layer1.1": 2, "layer2.0": 3, "layer2.1": 4, "layer3.0": 5, "layer3.1": 6, "layer4.0": 7, "layer4.1": 8,
}  # fmt: skip
VIT_TINY = {"cls_token": 0, "pos_embed": 0, "patch_embed": 0, **{f"blocks.{i}": i + 1 for i in range(12)}, "norm": 12}


def by_hand(name: str, table: dict[str, int]) -> int:
    (number,) = {number for start, number in table.items() if name == start or name.startswith(f"{start}.")}
    return number


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return timm.create_model("resnet18", num_classes=0)


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32)


@pytest.mark.parametrize(("model", "table"), [("resnet", RESNET18), ("vit", VIT_TINY)])
def test_numbers_are_those_written_by_hand(model: str, table: dict[str, int], request: pytest.FixtureRequest) -> None:
    backbone = request.getfixturevalue(model)
    numbers = layer_numbers(backbone)
    assert numbers == {name: by_hand(name, table) for name, _ in backbone.named_parameters()}


@pytest.mark.parametrize(("model", "table", "top"), [("resnet", RESNET18, 8), ("vit", VIT_TINY, 12)])
def test_every_layer_learns_slower_than_the_one_above(
    model: str, table: dict[str, int], top: int, request: pytest.FixtureRequest
) -> None:
    backbone = request.getfixturevalue(model)
    whole = nn.ModuleDict({"backbone": backbone, "head": nn.Linear(4, 2)})
    scale = layer_decay(backbone, 0.5)
    names = {id(p): name for name, p in whole.named_parameters()}
    loss = nn.Linear(2, 3)
    groups = parameter_groups(whole, 0.1, loss, lr_multiplier=10.0, layer_scale=scale)
    found = {}
    for group in groups:
        for p in group["params"]:
            if id(p) not in names:
                assert group["lr_scale"] == 10.0 and group["weight_decay"] == 0
                continue
            found[names[id(p)]] = group["lr_scale"]
            assert group["weight_decay"] == (0.1 if p.ndim > 1 else 0.0)
    expected = {f"backbone.{n}": 0.5 ** (top + 1 - by_hand(n, table)) for n, _ in backbone.named_parameters()}
    assert found == expected | {"head.weight": 1.0, "head.bias": 1.0}
    assert sum(len(group["params"]) for group in groups) == len(names) + 2


def test_a_head_whose_names_are_the_backbones_learns_at_the_full_rate() -> None:
    backbone = timm.create_model("resnet18", num_classes=0)
    assert layer_decay(backbone, 0.5)("layer1.0.conv1.weight") == 1.0
    assert layer_decay(backbone, 0.5)("backbone.layer1.0.conv1.weight") == 0.5**8
    assert layer_decay(backbone, 1.0)("backbone.conv1.weight") == 1.0


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "convnext_atto",  # whose norm behind the pooling stands in the classifier's layer
        "densenet121",
        "efficientvit_b0",
        "fbnetv3_b",
        "test_vit2",
        "poolformer_s12",  # without layers that timm knows
        pytest.param("every family of timm", marks=pytest.mark.long),
    ],
)
def test_the_rates_of_layers_are_timms_own(name: str) -> None:
    """Against ``param_groups_layer_decay`` of the same network with a classifier."""
    names = [name]
    if name.startswith("every"):
        families = {timm.models._registry._model_to_module[one]: one for one in timm.list_models()}
        names = sorted(families.values())
    for one in names:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            whole, backbone = (timm.create_model(one, num_classes=classes) for classes in (7, 0))
        if len(list(whole.parameters())) == len(list(backbone.parameters())):  # a network without a classifier
            continue
        groups = timm.optim.param_groups_layer_decay(whole, layer_decay=0.75)
        theirs = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
        expected = {name: theirs[id(p)] for name, p in whole.named_parameters()}
        scale = layer_decay(backbone, 0.75)
        for part, _ in backbone.named_parameters():
            assert scale(f"backbone.{part}") == expected[part], (one, part)


@pytest.mark.parametrize("layers", [0, 1, 3, 9, -1])
def test_freezing_takes_the_lower_layers_out(layers: int) -> None:
    backbone = timm.create_model("resnet18", num_classes=0)
    still = freeze(backbone, layers)
    for name, p in backbone.named_parameters():
        assert p.requires_grad == (layers >= 0 and by_hand(name, RESNET18) >= layers), name
    frozen_norms = {n for n, m in backbone.named_modules() if isinstance(m, nn.BatchNorm2d) and any(m is s for s in
                    (inner for module in still for inner in module.modules()))}  # fmt: skip
    expected = {
        name
        for name, module in backbone.named_modules()
        if isinstance(module, nn.BatchNorm2d) and (layers < 0 or by_hand(f"{name}.weight", RESNET18) < layers)
    }
    assert frozen_norms == expected


def test_what_has_no_layers_or_too_few_is_refused(resnet: nn.Module) -> None:
    with pytest.raises(ConfigError, match=r"frozen_layers is 10; this backbone has 9 layers \(-1 freezes all"):
        freeze(resnet, 10)
    with pytest.raises(ConfigError, match=r"Linear has no layers that timm knows; set --optim.layer-decay 1,"):
        layer_decay(nn.Linear(2, 2), 0.5)
    with pytest.raises(ConfigError, match="frozen_layers"):
        EncoderConfig(frozen_layers=-2)


def supervised(config: TrainConfig, **encoder: object) -> TrainConfig:
    return replace(
        config,
        objective=CrossEntropyConfig(),
        augment=replace(config.augment, views=1),
        encoder=replace(config.encoder, **encoder),
        train=replace(config.train, knn_every=0, batch_size=64),
        data=replace(config.data, limit=256),
    )


@pytest.mark.parametrize("frozen", [0, 2, -1])
def test_in_a_run_frozen_layers_stand_still_and_the_others_move(frozen: int, tiny_run: TrainConfig) -> None:
    config = supervised(tiny_run, frozen_layers=frozen)
    start = build_model(config).backbone.state_dict()
    simclr.pretrain(config)
    end = load_file(config.run_dir / "encoder" / "encoder.safetensors")
    table = {"conv1": 0, "bn1": 0} | {f"layer{i}.0": i for i in (1, 2, 3, 4)}  # one block a stage
    assert start.keys() == end.keys()
    for name, before in start.items():
        frozen_here = frozen < 0 or by_hand(name, table) < frozen
        assert torch.equal(before, end[name]) == frozen_here, name  # weights, and running means, variances, counters


def test_layer_decay_in_a_run_shortens_the_steps_of_the_lower_layers(tiny_run: TrainConfig) -> None:
    """SGD without momentum from the same weights, one step: each layer moves by its share of the plain run's step."""
    config = supervised(tiny_run)
    config = replace(
        config,
        optim=replace(config.optim, name="sgd", momentum=0.0, learning_rate=0.01, weight_decay=0.0),
        schedule=replace(config.schedule, warmup_epochs=0, decay="constant"),
        train=replace(config.train, epochs=1),
        data=replace(config.data, limit=64),
    )
    start = build_model(config).backbone.state_dict()
    ends = []
    for name, decay in (("plain", 1.0), ("decayed", 0.5)):
        run = replace(config, name=name, optim=replace(config.optim, layer_decay=decay))
        simclr.pretrain(run)
        ends.append(load_file(run.run_dir / "encoder" / "encoder.safetensors"))
    for i, name in enumerate(["conv1.weight", *(f"layer{k}.0.bn2.weight" for k in (1, 2, 3, 4))]):
        plain, decayed = ((end[name] - start[name]).norm().item() for end in ends)
        assert plain > 0
        assert decayed == pytest.approx(plain * 0.5 ** (5 - i), rel=2e-3), name


def test_nothing_left_to_learn_is_refused(tiny_run: TrainConfig) -> None:
    config = supervised(tiny_run, frozen_layers=-1)
    config = replace(config, objective=TripletConfig(), head=replace(config.head, layers=0))
    with pytest.raises(ConfigError, match="leaves nothing to learn"):
        simclr.pretrain(config)
    config = replace(
        config,
        encoder=replace(config.encoder, frozen_layers=0),
        schedule=replace(config.schedule, head_epochs=1, warmup_epochs=0),
    )
    with pytest.raises(ConfigError, match=r"set --schedule\.head-epochs 0"):
        simclr.pretrain(config)
    assert not config.run_dir.exists()
