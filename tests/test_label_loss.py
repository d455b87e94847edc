"""What every loss on labels promises: precision, broken rows, empty batches, statistics, gradients."""

import contextlib
import dataclasses
import inspect
import re
from typing import get_args

import pytest
import torch

from simclr.errors import ConfigError
from simclr.losses import (
    ArcFaceConfig,
    ArcFaceLoss,
    CenterConfig,
    CenterCrossEntropyLoss,
    CenterLoss,
    CircleConfig,
    CircleLoss,
    ContrastiveConfig,
    ContrastiveLoss,
    CosFaceConfig,
    CosFaceLoss,
    CrossEntropyConfig,
    CrossEntropyLoss,
    DistributionFocalConfig,
    DistributionFocalLoss,
    MarginConfig,
    MarginLoss,
    MultiSimilarityConfig,
    MultiSimilarityLoss,
    NPairConfig,
    NPairLoss,
    PairLoss,
    ProxyAnchorConfig,
    ProxyAnchorLoss,
    QuadrupletConfig,
    QuadrupletLoss,
    QualityFocalConfig,
    QualityFocalLoss,
    SiameseConfig,
    SiameseLoss,
    TargetBins,
    TripletConfig,
    TripletLoss,
)
from simclr.losses.mined import Mining
from simclr.mining import all as mining_all
from simclr.mining import tuples as mining_tuples

CLASSES, DIM = 6, 5


def remembering(loss: PairLoss) -> PairLoss:
    """``loss`` after two batches, that compares with them and takes no more in."""
    for seed in (3, 4):
        loss(*batch(seed=seed, size=4))
    assert loss.memory.real().sum() == 8
    return loss.eval()


LOSSES = {
    "contrastive": lambda: ContrastiveLoss(1.5, 0.2),
    "contrastive cosine": lambda: ContrastiveLoss(0.9, distance="cosine"),
    "contrastive manhattan": lambda: ContrastiveLoss(2.0, distance="manhattan", normalize=False),
    **{
        f"triplet {mining} {reduction}": lambda mining=mining, reduction=reduction: TripletLoss(
            0.5, mining, reduction=reduction
        )
        for mining in ("all", "hard", "semi-hard", "distance-weighted", "random")
        for reduction in ("active", "all")
    },
    "triplet squared": lambda: TripletLoss(0.5, "all", "squared"),
    "margin": lambda: MarginLoss(0.3, 1.0),
    "margin all": lambda: MarginLoss(0.3, 1.0, CLASSES, nu=0.1, mining="all"),
    "margin semi-hard": lambda: MarginLoss(0.3, 1.0, CLASSES, mining="semi-hard", reduction="all"),
    "multi-similarity": lambda: MultiSimilarityLoss(),
    "multi-similarity all pairs": lambda: MultiSimilarityLoss(3.0, 10.0, 0.4, None),
    "circle": lambda: CircleLoss(),
    **{
        f"{kind.__name__} with a memory": lambda kind=kind: remembering(kind(memory=9, memory_from=0, dim=DIM))
        for kind in (ContrastiveLoss, MultiSimilarityLoss, CircleLoss)
    },
    "n-pair": lambda: NPairLoss(0.02, temperature=None),
    "quadruplet": lambda: QuadrupletLoss(mining="hard"),
    "quadruplet random": lambda: QuadrupletLoss(mining="random", distance="euclidean"),
    "siamese": lambda: SiameseLoss(),
    "siamese unbalanced": lambda: SiameseLoss(balanced=False),
    "center": lambda: CenterLoss(CLASSES, DIM, alpha=0.0),
    "center cross-entropy": lambda: CenterCrossEntropyLoss(CLASSES, DIM, alpha=0.0, weight=0.5),
    "arcface": lambda: ArcFaceLoss(CLASSES, DIM, scale=8.0),
    "arcface easy, sub-centres": lambda: ArcFaceLoss(CLASSES, DIM, 8.0, 0.3, True, 3),
    "cosface": lambda: CosFaceLoss(CLASSES, DIM, scale=8.0),
    "cosface sub-centres": lambda: CosFaceLoss(CLASSES, DIM, 8.0, 0.2, 3),
    "proxy-anchor": lambda: ProxyAnchorLoss(CLASSES, DIM),
    "cross-entropy": lambda: CrossEntropyLoss(CLASSES, DIM, 0.1),
    "quality focal": lambda: QualityFocalLoss(CLASSES, DIM, 1.5),
    "distribution focal": lambda: DistributionFocalLoss(DIM, TargetBins(low=0, high=5, count=11)),
}
OF_CLASSES = ("center", "arcface", "cosface", "proxy", "cross", "quality", "distribution")
NEED_PAIRS = [name for name in LOSSES if not name.startswith(OF_CLASSES)]


@pytest.fixture(params=LOSSES)
def loss(request):
    torch.manual_seed(0)
    return LOSSES[request.param]()


@pytest.mark.parametrize("config", [TripletConfig, MarginConfig])
def test_the_help_of_mining_names_every_way_of_it(config):
    described = re.search(r'mining: Mining = \S+\n    """(.*?)"""', inspect.getsource(config), re.DOTALL)[1]
    assert set(get_args(Mining)) <= set(re.findall(r"[a-z-]+", described))


def batch(dtype=torch.float32, seed=1, size=18):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(size, DIM, generator=generator, dtype=torch.float64).to(dtype)
    return z, torch.randint(CLASSES, (size,), generator=generator)


def run(loss, z, labels, indices=None):
    return loss(z, labels, indices, generator=torch.Generator().manual_seed(2))


def test_gradcheck_in_float64(loss):
    if isinstance(loss, CircleLoss):
        return  # its weights have no gradient: tests/test_circle.py holds them, and compares with a numeric derivative
    loss = loss.double()
    z, labels = batch(torch.float64)
    parameters = tuple(p for p in loss.parameters() if p.requires_grad)
    assert run(loss, z, labels).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda z, *_: run(loss, z, labels), (z.requires_grad_(), *parameters))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_what_float32_gives(loss, dtype):
    z, labels = batch()
    z = z.to(dtype)
    expected_in = z.float().requires_grad_()
    expected = run(loss, expected_in, labels)
    expected.backward()
    z.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = run(loss, z, labels)
    value.backward()
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)
    assert torch.equal(z.grad, expected_in.grad.to(dtype))


def test_float32_is_float64_within_its_rounding(loss):
    z, labels = batch()
    value = run(loss, z.requires_grad_(), labels)
    value.backward()
    wide = z.detach().double().requires_grad_()
    # The same draws: float32 and float64 generators differ, so losses that draw are compared elsewhere.
    if getattr(loss, "mining", "") in ("random", "distance-weighted"):
        return
    expected = run(loss, wide, labels)
    expected.backward()
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(z.grad.double(), wide.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("row", [0, 17])
def test_a_broken_row_never_gives_a_finite_loss(loss, bad, row):
    z, labels = batch()
    labels[row] = CLASSES - 1  # alone in its class or not, mined or not
    z[row, 2] = bad
    assert torch.isnan(run(loss, z, labels))


@pytest.mark.parametrize("labels", [[], [3], [0, 0, 0], [0, 1, 2, 3]], ids=["empty", "one", "one class", "singletons"])
def test_batches_with_little_to_compare_are_finite_and_carry_a_graph(loss, labels):
    labels = torch.tensor(labels, dtype=torch.int64)
    z = batch()[0][: len(labels)].requires_grad_()
    value = run(loss, z, labels)
    value.backward()
    assert torch.isfinite(value)
    assert z.grad.shape == z.shape and torch.isfinite(z.grad).all()
    if len(labels) == 0:
        assert value == 0


@pytest.mark.parametrize("name", NEED_PAIRS)
def test_nothing_to_compare_is_exactly_zero(name):
    z, _ = batch()
    for labels in ([], [3]):
        assert run(LOSSES[name](), z[: len(labels)], torch.tensor(labels, dtype=torch.int64)) == 0


@pytest.mark.parametrize("name", [name for name in NEED_PAIRS if name.startswith(("triplet", "quadruplet"))])
@pytest.mark.parametrize("labels", [[2] * 18, list(range(18))], ids=["one class", "singletons"])
def test_no_valid_triplet_is_exactly_zero(name, labels):
    loss = LOSSES[name]()
    z = batch()[0].requires_grad_()
    value = run(loss, z, torch.tensor(labels))
    value.backward()
    assert value == 0 and torch.all(z.grad == 0)
    assert loss.statistics["triplets"] == 0 and loss.statistics["anchors_dropped"] == 18


def test_duplicates_give_finite_gradients(loss):
    z, labels = batch()
    z = z[:1].repeat(18, 1).requires_grad_()
    value = run(loss, z, labels)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(z.grad).all()


def test_zero_vectors_give_finite_gradients(loss):
    z, labels = batch()
    z[3] = 0
    z[8] = 0
    value = run(loss, z.requires_grad_(), labels)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(z.grad).all()


def test_statistics_are_single_numbers_without_a_graph(loss):
    z, labels = batch()
    run(loss, z.requires_grad_(), labels)
    assert loss.statistics
    for value in loss.statistics.values():
        assert value.ndim == 0 and not value.requires_grad and torch.isfinite(value)


def test_order_of_the_batch_does_not_matter(loss):
    if getattr(loss, "mining", "") in ("random", "distance-weighted") or isinstance(loss, NPairLoss):
        return  # draws and pairs follow the order
    z, labels = batch(torch.float64)
    order = torch.randperm(18, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(run(loss, z, labels), run(loss, z[order], labels[order]))


def test_nothing_waits_for_a_device(loss, monkeypatch):
    """On the meta device tensors have no values: whatever would wait for one (item, nonzero, a mask as index) raises."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # it does not know that device
    loss = loss.to("meta")
    z = torch.zeros(18, DIM, device="meta", requires_grad=True)
    value = loss(z, torch.zeros(18, dtype=torch.int64, device="meta"))
    value.backward()
    assert z.grad.shape == z.shape
    with pytest.raises(RuntimeError):
        value.item()


def test_tables_as_wide_as_the_batch_change_nothing(loss, monkeypatch):
    """On a GPU, where the largest class is not known, every table has N - 1 columns and is searched by sorting."""
    if getattr(loss, "mining", "") in ("random", "distance-weighted"):
        return  # a wider table takes other draws
    z, labels = batch(torch.float64)
    expected_in, wide_in = z.clone().requires_grad_(), z.clone().requires_grad_()
    expected = run(loss, expected_in, labels)
    expected.backward()
    statistics = loss.statistics
    monkeypatch.setattr(mining_tuples, "_largest", lambda size, most: most)
    monkeypatch.setattr(mining_tuples, "FEW", 0)
    monkeypatch.setattr(mining_all, "FEW", 0)
    value = run(loss, wide_in, labels)
    value.backward()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(wide_in.grad, expected_in.grad)
    torch.testing.assert_close(loss.statistics, statistics, equal_nan=True)


def test_wrong_input_is_refused(loss):
    z, labels = batch()
    with pytest.raises(ValueError, match=r"expected.*\(18,\)"):
        loss(z, labels[:-1])
    with pytest.raises(ValueError, match="embeddings"):
        loss(z.long(), labels)
    if not isinstance(loss, DistributionFocalLoss):
        with pytest.raises(TypeError, match="expected int64"):
            loss(z, labels.float())


@pytest.mark.parametrize("name", ["contrastive", "triplet all active", "n-pair", "siamese", "quadruplet"])
def test_labels_that_float32_would_merge_stay_apart(name):
    z, _ = batch(size=12)
    small, large = torch.arange(12) // 2, (1 << 24) + torch.arange(12) // 2
    assert len(set(large.float().tolist())) < 6
    torch.testing.assert_close(run(LOSSES[name](), z, large), run(LOSSES[name](), z, small), rtol=0, atol=0)


CONFIGS = [
    ArcFaceConfig,
    CenterConfig,
    CircleConfig,
    ContrastiveConfig,
    CosFaceConfig,
    CrossEntropyConfig,
    DistributionFocalConfig,
    MarginConfig,
    MultiSimilarityConfig,
    NPairConfig,
    ProxyAnchorConfig,
    QuadrupletConfig,
    QualityFocalConfig,
    SiameseConfig,
    TripletConfig,
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_every_config_builds_a_loss_that_trains(config):
    torch.manual_seed(0)
    objective = config().build(CLASSES, 8, 18)
    labels = torch.arange(18) % CLASSES
    encoder = torch.nn.Linear(12, 8)
    x = torch.randn(18, 12) + 2 * torch.nn.functional.one_hot(labels, 12)
    optimizer = torch.optim.Adam([*encoder.parameters(), *objective.parameters()], lr=0.02)
    values = []
    for step in range(60):
        generator = torch.Generator().manual_seed(step)
        value = objective(encoder(x), labels, torch.arange(18), generator=generator)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert sum(values[-10:]) < 0.9 * sum(values[:10]) or objective.statistics["active"] < 0.2


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_configs_are_frozen_and_name_themselves(config):
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().lr_multiplier = 2.0
    assert config.needs_labels and config.views == 1
    with pytest.raises(ConfigError, match="lr_multiplier is 0"):
        config(lr_multiplier=0)
    assert len({other.name for other in CONFIGS}) == len(CONFIGS)


@pytest.mark.parametrize(
    ("config", "wrong", "message"),
    [
        (TripletConfig, {"mining": "medium"}, "unknown mining 'medium'; expected one of all, hard"),
        (TripletConfig, {"margin": -1.0}, r"margin is -1\.0; it must be 0 or more"),
        (TripletConfig, {"fallback": "none"}, "fallback is 'none'"),
        (TripletConfig, {"reduction": "mean"}, "reduction is 'mean'; it must be active or all"),
        (ContrastiveConfig, {"distance": "l2"}, "unknown distance 'l2'"),
        (ContrastiveConfig, {"positive_margin": 2.0}, r"positive_margin is 2\.0; it must be in \[0, margin = 1\.0\)"),
        (MarginConfig, {"cutoff": 1.5}, r"cutoff is 1\.5"),
        (MarginConfig, {"nu": -1.0}, "nu is -1"),
        (QuadrupletConfig, {"second_margin": 1.0}, "second_margin is 1"),
        (QuadrupletConfig, {"mining": "all"}, "mining is 'all'; it must be hard or random"),
        (SiameseConfig, {"steepness": 0.0}, r"steepness is 0\.0; it must be positive"),
        (NPairConfig, {"l2_weight": -0.1}, "l2_weight"),
        (ArcFaceConfig, {"margin": 28.6}, "an angle in radians"),
        (ArcFaceConfig, {"subcenters": 0}, "subcenters is 0"),
        (ArcFaceConfig, {"sample_share": 0.0}, r"sample_share is 0\.0; it must be in \(0, 1\]"),
        (CosFaceConfig, {"margin": 1.0}, r"margin is 1\.0; it must be a part of a cosine"),
        (CosFaceConfig, {"scale": -1.0}, "scale is -1"),
        (ProxyAnchorConfig, {"alpha": 0.0}, r"alpha is 0\.0; it must be positive"),
        (ProxyAnchorConfig, {"margin": -0.1}, "margin is -0.1"),
        (MultiSimilarityConfig, {"base": 1.5}, r"base is 1\.5; it must be a cosine"),
        (MultiSimilarityConfig, {"beta": 0.0}, "beta is 0"),
        (MultiSimilarityConfig, {"epsilon": -0.1}, "epsilon is -0.1; .* or none for every pair"),
        (CircleConfig, {"gamma": 0.0}, "gamma is 0"),
        (CircleConfig, {"margin": 1.0}, "margin is 1"),
        (CircleConfig, {"memory": -1}, "memory is -1; it must be a number of embeddings from 0"),
        (ContrastiveConfig, {"memory_from": -5}, "memory_from is -5; it must be a number of steps"),
        (CenterConfig, {"alpha": 2.0}, "alpha is 2"),
        (CrossEntropyConfig, {"label_smoothing": 1.0}, "label_smoothing is 1"),
        (QualityFocalConfig, {"beta": 0.0}, "beta is 0"),
        (DistributionFocalConfig, {"low": 0.0}, "give all three"),
        (DistributionFocalConfig, {"low": 1.0, "high": 1.0, "bins": 4}, "low must be below high"),
    ],
)
def test_settings_out_of_range_are_named(config, wrong, message):
    with pytest.raises(ConfigError, match=message):
        config(**wrong)


def test_collapse_is_said_in_plain_words():
    objective = TripletLoss(0.2, "hard")
    labels = torch.arange(12) % 3
    collapsed = torch.ones(12, 4) + 1e-4 * torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    value = objective(collapsed, labels)
    figures = {name: float(statistic) for name, statistic in objective.statistics.items()}
    assert "collapsed" in objective.warning(float(value), figures)
    apart = torch.nn.functional.one_hot(labels, 4).float()
    value = objective(apart, labels)
    figures = {name: float(statistic) for name, statistic in objective.statistics.items()}
    assert objective.warning(float(value), figures) is None


def test_distances_that_do_not_tell_classes_apart_are_said_in_plain_words():
    objective = ContrastiveLoss()
    generator = torch.Generator().manual_seed(0)
    objective(torch.randn(200, 64, generator=generator), torch.arange(200) % 2)
    figures = {name: float(statistic) for name, statistic in objective.statistics.items()}
    assert "says nothing about the labels" in objective.warning(0.4, figures)
