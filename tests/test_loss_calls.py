"""Losses in other people's hands: under ``torch.func`` and ``torch.compile``, and with what people hand to them."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from simclr.losses import (
    ArcFaceLoss,
    CenterLoss,
    CircleLoss,
    ContrastiveLoss,
    CosFaceLoss,
    CrossEntropyLoss,
    MarginLoss,
    MultiSimilarityLoss,
    NPairLoss,
    NTXentLoss,
    ProxyAnchorLoss,
    QuadrupletLoss,
    SiameseLoss,
    SIGRegLoss,
    SupConLoss,
    TripletLoss,
    distribution_focal_loss,
    momentum_contrast,
    nt_xent,
    nt_xent_reference,
    quality_focal_loss,
    sup_con,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:There is a performance drop"),  # operations that vmap takes one by one
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated"),  # which torch itself calls
]

BATCH, DIM = 12, 8
LABELS = torch.arange(BATCH) // 3
ROW_LABELS = LABELS.repeat(2)


def seeded(*shape: int, numbers: Literal["normal", "uniform"] = "normal") -> Tensor:
    draw = torch.randn if numbers == "normal" else torch.rand
    return draw(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


VIEWS = seeded(2, BATCH, DIM)
ROWS = VIEWS.flatten(0, 1)
QUALITY = seeded(2 * BATCH, numbers="uniform")


def of_labels(loss: nn.Module) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    loss.double().eval()  # a centre moves in training, in place
    return lambda z: loss(z, ROW_LABELS), ROWS


CASES: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
    "nt-xent": (NTXentLoss(), VIEWS),
    "nt-xent, 3 views": (NTXentLoss(0.1), seeded(3, BATCH, DIM)),
    "decoupled": (NTXentLoss(0.1, decoupled=True), VIEWS),
    "nt-xent, cold": (NTXentLoss(1e-3), VIEWS),  # the dense form
    "moco": (lambda z: momentum_contrast(z, VIEWS.flip(0), 0.2), VIEWS),
    "moco, other view": (lambda z: momentum_contrast(z, VIEWS.flip(0), 0.2, "other"), VIEWS),
    "lejepa": (SIGRegLoss(slices=8), VIEWS),
    "supcon": (lambda z: sup_con(z, LABELS), VIEWS),
    "contrastive": of_labels(ContrastiveLoss()),
    "manhattan": of_labels(ContrastiveLoss(distance="manhattan")),
    "cosine": of_labels(ContrastiveLoss(distance="cosine")),
    "n-pair": of_labels(NPairLoss(temperature=None)),
    "quadruplet": of_labels(QuadrupletLoss(mining="hard")),
    "siamese": of_labels(SiameseLoss()),
    "center": of_labels(CenterLoss(4, DIM)),
    "arcface": of_labels(ArcFaceLoss(4, DIM)),
    "cosface": of_labels(CosFaceLoss(4, DIM, subcenters=2)),
    "proxy-anchor": of_labels(ProxyAnchorLoss(4, DIM)),
    "multi-similarity": of_labels(MultiSimilarityLoss()),
    "circle": of_labels(CircleLoss()),
    "memory": of_labels(ContrastiveLoss(memory=6, dim=DIM)),
    "cross-entropy": of_labels(CrossEntropyLoss(4, DIM)),
    "quality focal": (lambda z: quality_focal_loss(z, ROW_LABELS, QUALITY), ROWS),
    "distribution focal": (lambda z: distribution_focal_loss(z, QUALITY * (DIM - 1)), ROWS),
    "margin": of_labels(MarginLoss(num_classes=4)),
    **{f"triplet, {how}": of_labels(TripletLoss(mining=how)) for how in ("all", "hard", "semi-hard", "given")},
    **{f"triplet, {how}": of_labels(TripletLoss(mining=how)) for how in ("random", "distance-weighted")},
}
DRAWN = ("margin", "triplet, random", "triplet, distance-weighted")
"""What draws negatives: so many numbers at once as a table of positives is wide."""


def eager(loss: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    z = z.clone().requires_grad_()
    value = loss(z)
    return value.detach(), torch.autograd.grad(value, z)[0]


@pytest.mark.parametrize("name", CASES)
def test_torch_func_gives_the_eager_value_and_gradient(name: str) -> None:
    loss, z = CASES[name]
    with torch.random.fork_rng(devices=[]):
        value, gradient = eager(loss, z)
        torch.manual_seed(3)
        found, of_value = torch.func.grad_and_value(loss)(z)
        torch.testing.assert_close((of_value, found), (value, gradient), rtol=1e-9, atol=1e-12)
        each = torch.stack([z, 0.7 * z.flip(-1)])
        torch.manual_seed(3)
        many = torch.func.vmap(torch.func.grad(loss), randomness="same")(each)
        torch.testing.assert_close(many, torch.stack([eager(loss, one)[1] for one in each]), rtol=1e-9, atol=1e-12)


def test_nt_xent_under_torch_func_is_the_textbooks_and_can_be_differentiated_twice() -> None:
    z = VIEWS[:, :4, :3]
    found = torch.func.jacrev(lambda z: nt_xent(z, 0.3))(z)
    torch.testing.assert_close(found, torch.func.jacrev(lambda z: nt_xent_reference(z, 0.3))(z))
    once_more = torch.func.hessian(lambda z: nt_xent(z, 0.3))(z)
    torch.testing.assert_close(once_more, torch.func.hessian(lambda z: nt_xent_reference(z, 0.3))(z))


def compiled_case(name: str, monkeypatch: pytest.MonkeyPatch, backend: str = "aot_eager") -> None:
    loss, z = CASES[name]
    torch._dynamo.reset()
    if (
        name in DRAWN
    ):  # a compiler cannot look how large the largest class is: as on a GPU tables are as wide as the batch
        monkeypatch.setattr("simclr.mining.tuples._largest", lambda size, most: most)
    with torch.random.fork_rng(devices=[]):
        value, gradient = eager(loss, z)
        found, of_found = eager(torch.compile(loss, fullgraph=True, backend=backend), z)
    torch.testing.assert_close((found, of_found), (value, gradient), rtol=1e-9, atol=1e-12)


def test_nt_xent_compiles_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled_case("nt-xent", monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["supcon", "lejepa", "triplet, semi-hard"])
def test_a_loss_compiles_in_one_piece(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled_case(name, monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_every_loss_compiles_in_one_piece(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled_case(name, monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize("name", ["nt-xent", "lejepa", "supcon", "triplet, semi-hard"])
def test_a_loss_as_a_compilers_own_code(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled_case(name, monkeypatch, "inductor")


Z0, Z1 = VIEWS.float().unbind()


@pytest.mark.parametrize(
    "given",
    [
        lambda loss: loss(Z0, Z1),
        lambda loss: loss([Z0, Z1]),
        lambda loss: loss((Z0.numpy(), Z1.numpy())),
        lambda loss: loss(np.stack([Z0, Z1])),
    ],
)
def test_views_may_come_one_by_one(given: Callable[[nn.Module], Tensor]) -> None:
    assert torch.equal(given(NTXentLoss()), NTXentLoss()(torch.stack([Z0, Z1])))


@pytest.mark.parametrize(
    "labels",
    [ROW_LABELS.numpy(), ROW_LABELS.tolist(), [*ROW_LABELS], ROW_LABELS.to(torch.uint8), ROW_LABELS.int().numpy()],
)
@pytest.mark.parametrize(
    "loss", [TripletLoss(), NPairLoss(), SiameseLoss(), CrossEntropyLoss(4, DIM)], ids=lambda one: type(one).__name__
)
def test_labels_may_be_arrays_lists_and_other_integers(labels: Any, loss: nn.Module) -> None:
    wanted = loss(torch.cat([Z0, Z1]), ROW_LABELS)
    assert torch.equal(loss(torch.cat([Z0, Z1]), labels), wanted)
    assert torch.equal(loss(torch.cat([Z0, Z1]), labels=labels), wanted)
    assert torch.equal(loss(np.concatenate([Z0, Z1]), labels), wanted)


def test_views_with_a_label_an_image_are_their_rows() -> None:
    views, numbers = torch.stack([Z0, Z1]), torch.arange(BATCH)
    for loss in (TripletLoss(), CrossEntropyLoss(4, DIM)):
        wanted = loss(views.flatten(0, 1), ROW_LABELS)
        assert torch.equal(loss(views, LABELS), wanted) and torch.equal(loss([Z0, Z1], LABELS.tolist()), wanted)
        assert torch.equal(loss(views, ROW_LABELS), wanted)
    margin = MarginLoss(num_samples=BATCH)
    wanted = margin(views.flatten(0, 1), ROW_LABELS, numbers.repeat(2), generator=torch.Generator().manual_seed(0))
    for indices in (numbers, numbers.numpy()):
        assert torch.equal(margin(views, LABELS, indices, generator=torch.Generator().manual_seed(0)), wanted)
    assert torch.equal(SupConLoss()([Z0, Z1], LABELS.numpy()), sup_con(views, LABELS))


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: NTXentLoss()(Z0, LABELS), TypeError, "takes no labels"),
        (lambda: NTXentLoss()(torch.stack([Z0, Z1]), LABELS), TypeError, "takes no labels"),
        (lambda: NTXentLoss()(Z0, LABELS.float()), TypeError, "takes no labels"),
        (lambda: NTXentLoss()(Z0, ["wren"] * BATCH), TypeError, "takes no labels"),
        (lambda: NTXentLoss()(Z0, Z1[:3]), ValueError, r"the shapes \(12, 8\), \(3, 8\); expected one shape"),
        (
            lambda: TripletLoss()(Z0, Z1),
            TypeError,
            r"are these two views\?.*torch.cat\(\[z0, z1\]\), labels.repeat\(2\)",
        ),
        (lambda: CrossEntropyLoss(4, DIM)(Z0, Z1), ValueError, r"are these two views\?"),
        (lambda: SupConLoss()(Z0, Z1), ValueError, r"are these two views\?.*torch.stack\(\[z0, z1\]\), labels"),
        (lambda: nt_xent(Z0, Z1), TypeError, r"is it another view\? All views go into one tensor"),
        (lambda: sup_con(torch.stack([Z0, Z1]), LABELS, Z0), TypeError, "is it another view"),
        (lambda: TripletLoss()(Z0, ["wren"] * BATCH), TypeError, "labels are texts; a loss takes numbers"),
        (lambda: TripletLoss()(Z0, np.array(["wren"] * BATCH)), TypeError, "labels are texts; a loss takes numbers"),
        (lambda: TripletLoss()(Z0, None), TypeError, "labels are NoneType; expected int64"),
        (lambda: TripletLoss()(Z0, LABELS.double().numpy()), TypeError, "expected int64"),
        (lambda: TripletLoss()(torch.stack([Z0, Z1]), LABELS[:5]), ValueError, r"of shape \(2, 12, 8\)"),
    ],
)
def test_what_cannot_be_meant_is_a_sentence_that_helps(
    call: Callable[[], Tensor], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        call()
