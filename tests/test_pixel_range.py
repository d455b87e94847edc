"""Floats that are no pixels in [0, 1] are refused where images come in, on a CPU in every batch, and pixels that are stay."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from augment import AugmentConfig, Before, ViewGenerator, preprocess
from augment.pixel_range import RangeWatch
from linear_eval import sgd_probe
from simclr.exchange.encoder_module import Encoder

SIZE = 8
UINT8 = torch.randint(256, (4, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
PIXELS = UINT8.float() / 255
MEAN, STD = (torch.tensor(one).view(3, 1, 1) for one in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
CONFIG = AugmentConfig(size=SIZE)


class Pooled(nn.Module):
    """A backbone of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x.float().mean((2, 3)) * self.weight


def probe(images: Tensor) -> Any:
    known = [(image, number % 2) for number, image in enumerate(images)]
    return sgd_probe(Pooled(), known, known, epochs=1, resamples=10).accuracy


ENTRANCES: dict[str, Callable[[], Callable[[Tensor], Any]]] = {
    "views": lambda: ViewGenerator(CONFIG),
    "views, reference": lambda: ViewGenerator(CONFIG, backend="reference"),
    "views, apply": lambda: lambda x: ViewGenerator(CONFIG).apply(x, ViewGenerator(CONFIG).sample(4, (SIZE, SIZE), 0)),
    "evaluation": lambda: lambda x: preprocess(x, SIZE),
    "encoder": lambda: Encoder(Pooled(), size=SIZE).eval(),
    "sgd probe": lambda: probe,
}
WRONG = {
    "0 to 255": (
        UINT8.float(),
        r"images hold values from 0 to 255: expected floating point in \[0, 1\], or uint8; divide",
    ),
    "normalised": ((PIXELS - MEAN) / STD, r"images hold values from -2\.\d+ to 2\.\d+: expected"),
    "-1 to 1": (2 * PIXELS - 1, "images hold values from -1 to 1: expected"),
    "infinite": (torch.where(PIXELS > 0.9, torch.inf, PIXELS), "to inf: expected"),
    "NaN": (PIXELS.clone().index_fill_(0, torch.tensor([1, 3]), torch.nan), "images 1, 3 hold NaN"),
    "half, 0 to 255": (UINT8.half(), "images hold values from 0 to 255"),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", ENTRANCES)
def test_floats_that_are_no_pixels_are_refused_in_whichever_batch(name: str, kind: str) -> None:
    entrance, (wrong, said) = ENTRANCES[name](), WRONG[kind]
    entrance(PIXELS)
    if name == "sgd probe" and kind == "NaN":
        said = "hold NaN"
    with pytest.raises(ValueError, match=said):
        entrance(wrong)
    entrance(PIXELS)


@pytest.mark.parametrize("name", ENTRANCES)
def test_what_a_resize_overshoots_by_and_other_types_pass(name: str) -> None:
    entrance = ENTRANCES[name]()
    small = nn.functional.interpolate(torch.eye(6).expand(4, 3, 6, 6), SIZE, mode="bicubic")
    assert small.min() < -0.01 and small.max() > 1.01
    for images in (small, PIXELS.double(), PIXELS.bfloat16(), UINT8, PIXELS * 0):
        entrance(images)


def test_an_array_is_no_image_and_an_operation_of_ones_own_is_held_to_the_range() -> None:
    with pytest.raises(TypeError, match=r"images are ndarray: expected a tensor \(B, C, H, W\)"):
        ViewGenerator(CONFIG)(np.zeros((2, 3, 8, 8)))  # type: ignore[arg-type]
    assert Before(lambda x: x).operation(PIXELS) is PIXELS


def test_a_generator_is_copied_and_sent_to_other_processes() -> None:
    generator = ViewGenerator(CONFIG)
    generator(PIXELS, seed=1)
    for other in (copy.deepcopy(generator), pickle.loads(pickle.dumps(generator))):
        assert torch.equal(other(PIXELS, seed=1), generator(PIXELS, seed=1))


class Gpu:
    """Stands for images on a GPU whose least and largest value arrive when ``there`` says so."""

    is_cuda, device = True, torch.device("cuda")

    def __init__(self, low: float, high: float) -> None:
        self.bounds = torch.tensor([low, high])

    def is_floating_point(self) -> bool:
        return True

    def numel(self) -> int:
        return 1

    def detach(self) -> "Gpu":
        return self

    def aminmax(self) -> tuple[Tensor, ...]:
        return tuple(self.bounds)


def test_on_a_gpu_nothing_waits_and_a_later_batch_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    there = False

    class Event:
        def record(self) -> None:
            pass

        def query(self) -> bool:
            return there

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    watch = RangeWatch()
    watch(Gpu(0, 255), "")  # type: ignore[arg-type]
    watch(Gpu(0, 1), "")  # type: ignore[arg-type]  # the first has not arrived
    there = True
    with pytest.raises(ValueError, match="images hold values from 0 to 255"):
        watch(Gpu(0, 1), "")  # type: ignore[arg-type]
    for _ in range(3):
        watch(Gpu(0, 1), "")  # type: ignore[arg-type]
    watch(Gpu(0, float("nan")), "")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="from 0 to nan"):
        watch(Gpu(0, 1), "")  # type: ignore[arg-type]
