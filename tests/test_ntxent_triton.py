"""The Triton kernels against the full float64 matrix: under Triton's interpreter, and on a GPU where there is one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed: it comes with the CUDA builds of torch on Linux")

CASES = [((2, 40, 24), 0.5), ((2, 40, 24), 0.01), ((3, 90, 20), 0.1), ((2, 170, 9), 0.02), ((2, 1, 16), 0.1)]
"""Shape (V, B, D) and temperature, with tiles of at most 150 rows, which a program of 32 x 128 does not divide: one tile
of two views; the same in float64; a tile a view; two tiles a view; one image."""

INTERPRETED = """
import json, sys
import torch
from simclr.losses.ntxent import tiled
from simclr.losses.ntxent.loss import nt_xent

asked = []
tiled.runs_on_triton = lambda tile: asked.append(tile.dtype) or True
tiled.TILE_ROWS["cpu"] = 150
torch.set_num_threads(1)
results = []
for path in sys.argv[1:]:
    case = torch.load(path)
    views = case["views"].requires_grad_()
    loss = nt_xent(views, case["temperature"])
    loss.backward()
    results.append({"loss": loss.item(), "gradient": views.grad.tolist()})
assert "simclr.losses.ntxent.triton" in sys.modules
assert set(asked) == {torch.float32, torch.float64}, asked
json.dump(results, sys.stdout)
"""


def cases() -> list[tuple[Tensor, float]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(*shape, generator=generator), temperature) for shape, temperature in CASES]


def full_matrix_loss(views: Tensor, temperature: float) -> Tensor:
    """NT-Xent in float64 from the N x N matrix: the mean over ordered pairs of log-softmax over the other rows."""
    num_views, batch, _ = views.shape
    z = torch.nn.functional.normalize(views.double().flatten(0, 1), dim=1)
    s = z @ z.T / temperature
    log_softmax = s - s.masked_fill(torch.eye(len(z), dtype=torch.bool), -torch.inf).logsumexp(dim=1, keepdim=True)
    image = torch.arange(batch).repeat(num_views)
    pair = (image[:, None] == image[None, :]) & ~torch.eye(len(z), dtype=torch.bool)
    return -log_softmax[pair].mean()


def check(views: Tensor, temperature: float, loss: float, gradient: Tensor) -> None:
    leaf = views.clone().requires_grad_()
    expected = full_matrix_loss(leaf, temperature)
    expected.backward()
    assert leaf.grad is not None
    assert loss == pytest.approx(expected.item(), rel=1e-6, abs=1e-12)
    assert (gradient - leaf.grad).norm() <= 1e-6 * leaf.grad.norm() + 1e-12


def test_under_the_interpreter(tmp_path):
    paths = []
    for i, (views, temperature) in enumerate(cases()):
        paths.append(tmp_path / f"{i}.pt")
        torch.save({"views": views, "temperature": temperature}, paths[-1])
    root = Path(__file__).parents[1]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED, *map(str, paths)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert len(results) == len(cases())
    for (views, temperature), result in zip(cases(), results, strict=True):
        check(views, temperature, result["loss"], torch.tensor(result["gradient"]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("temperature", [0.01, 0.02, 0.5])
@pytest.mark.parametrize("shape", [(2, 1, 16), (3, 15, 130), (2, 1000, 128), (2, 300, 300)], ids=str)
def test_on_cuda(shape, temperature):
    from simclr.losses.ntxent.loss import nt_xent

    views = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    leaf = views.cuda().requires_grad_()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = nt_xent(leaf, temperature)
    loss.backward()
    assert leaf.grad is not None
    check(views, temperature, loss.item(), leaf.grad.cpu())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_same_bits_on_cuda_every_time():
    from simclr.losses.ntxent.loss import nt_xent

    gradients = []
    for _ in range(2):
        views = torch.randn(2, 500, 128, generator=torch.Generator().manual_seed(2)).cuda().requires_grad_()
        nt_xent(views, 0.1).backward()
        gradients.append(views.grad)
    assert torch.equal(gradients[0], gradients[1])
