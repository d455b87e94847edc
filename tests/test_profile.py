"""The profile of a step: parts that add up on a clock we move ourselves, hand-counted operations, a readable trace."""

import gzip
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from simclr.errors import CheckpointError
from simclr.run import profile as module
from simclr.run.flops import Peak, listed_peak, measured_peak, model_flops, peak_flops
from simclr.run.grad_cache import cached_step
from simclr.run.profile import PARTS, StepProfile

CPU = torch.device("cpu")


class Clock:
    """Stands still unless somebody works."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Costs(torch.autograd.Function):
    """The identity that takes ``forward`` seconds, and ``backward`` seconds on the way back."""

    @staticmethod
    def forward(ctx: object, x: Tensor, clock: Clock, forward: float, backward: float) -> Tensor:
        ctx.clock, ctx.backward_seconds = clock, backward
        clock.now += forward
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        ctx.clock.now += ctx.backward_seconds
        return gradient, None, None, None


class Encoder(nn.Module):
    """Views (V, B, 3) to z (V, B, 2): 1 s forward, 10 s backward."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.linear, self.clock = nn.Linear(3, 2), clock

    def forward(self, views: Tensor) -> Tensor:
        return Costs.apply(self.linear(views), self.clock, 1.0, 10.0)


def run_steps(profile: StepProfile, clock: Clock, chunk: int, steps: int) -> tuple[list[Tensor], bool]:
    """A loop as in simclr.train, each part with its own cost; the gradients of every step, and whether it was told to end."""
    torch.manual_seed(0)
    model, views = Encoder(clock), torch.randn(2, 6, 3)

    def objective(z: Tensor) -> Tensor:
        return Costs.apply(z, clock, 100.0, 1000.0).square().sum()

    gradients, ended = [], False
    for _ in range(steps):
        clock.now += 0.5  # the batch
        profile.mark("other")
        clock.now += 0.25
        profile.mark("augment")
        clock.now += 3.0
        profile.mark("encoder")
        cached_step(model, views, profile.loss(objective), chunk=chunk)
        profile.mark("optimizer")
        clock.now += 7.0
        gradients.append(model.linear.weight.grad.clone())
        model.zero_grad()
        profile.mark("other")
        clock.now += 0.125
        ended = profile.end_step()
        if ended:
            break
    return gradients, ended


@pytest.mark.parametrize(("chunk", "encoder"), [(6, 11.0), (3, 2 * 1.0 + 2 * 11.0), (2, 3 * 1.0 + 3 * 11.0)])
def test_every_second_is_in_the_part_that_spent_it(chunk: int, encoder: float) -> None:
    clock = Clock()
    profile = StepProfile(4, CPU, warmup=2, traced=0, clock=clock)
    gradients, ended = run_steps(profile, clock, chunk, steps=100)
    assert ended and len(gradients) == 6
    expected = {"data": 0.5, "augment": 3.0, "encoder": encoder, "loss": 1100.0, "optimizer": 7.0, "other": 0.375}
    assert profile.seconds() == expected
    assert sum(profile.seconds().values()) == pytest.approx(clock.now / 6)


def test_warm_up_is_left_out() -> None:
    clock = Clock()
    profile = StepProfile(2, CPU, warmup=3, traced=0, clock=clock)
    for seconds in (50.0, 60.0, 70.0, 1.0, 3.0):
        profile.mark("augment")
        clock.now += seconds
        assert profile.end_step() == (seconds == 3.0)
    assert profile.seconds()["augment"] == 2.0


def test_profiling_changes_no_gradient() -> None:
    for chunk in (6, 2):
        clock = Clock()
        off, _ = run_steps(StepProfile(0, CPU), clock, chunk, 3)
        on, _ = run_steps(StepProfile(1, CPU, warmup=1, traced=1), clock, chunk, 3)
        assert len(off) == 3 and all(torch.equal(a, b) for a, b in zip(off, on, strict=True))


def test_off_nothing_is_called_and_nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> float:
        raise AssertionError("a profile that is off waits for nothing and reads no clock")

    monkeypatch.setattr(module, "wait_for", forbidden)
    profile = StepProfile(0, CPU, clock=forbidden)
    _, ended = run_steps(profile, Clock(), 3, 5)
    assert not ended
    objective: Callable[[Tensor], Tensor] = torch.sum
    assert profile.loss(objective) is objective


def test_on_the_device_is_waited_for_at_every_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []
    monkeypatch.setattr(module, "wait_for", waited.append)
    profile = StepProfile(1, CPU, warmup=0, traced=0)
    before = len(waited)
    run_steps(profile, Clock(), 6, 1)
    # other, augment, encoder, loss, back to the encoder, optimizer, other, and data at the end
    assert waited[before:] == [CPU] * 8


def test_where_the_objective_alone_learns_its_backward_is_loss() -> None:
    clock, weight = Clock(), torch.ones(2, requires_grad=True)
    profile = StepProfile(1, CPU, warmup=0, traced=0, clock=clock)
    profile.mark("encoder")
    clock.now += 2.0
    profile.loss(lambda z: Costs.apply(z * weight, clock, 5.0, 50.0).sum())(torch.ones(2)).backward()
    profile.mark("optimizer")
    profile.end_step()
    assert profile.seconds()["loss"] == 55.0 and profile.seconds()["encoder"] == 2.0


def test_a_part_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="'backward' is no part"):
        StepProfile(1, CPU).mark("backward")
    with pytest.raises(ValueError, match="steps=-1"):
        StepProfile(-1, CPU)


def test_report_names_all_parts_shares_and_speed() -> None:
    clock = Clock()
    profile = StepProfile(2, CPU, warmup=0, traced=0, clock=clock)
    assert "no step was timed" in profile.report()
    run_steps(profile, clock, 6, 2)
    report = profile.report(22 * 10**12, Peak(8e12, "a made-up device"))
    lines = {line.split()[0]: line.split()[1:] for line in report.splitlines()}
    assert set(PARTS) <= set(lines)
    step = 0.5 + 3 + 11 + 1100 + 7 + 0.375
    assert lines["step"][0] == f"{1e3 * step:.3f}"
    assert lines["loss"][:2] == ["1100000.000", f"{100 * 1100 / step:.1f}"]
    assert "2.2e+04 GFLOP" in report and ": 2 TFLOP/s" in report
    assert "25.0 % of 8 TFLOP/s (a made-up device)" in report
    assert "could not be counted" in profile.report(None)


def test_trace_is_json_with_our_parts_beside_torchs_operations(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, optimizer = nn.Linear(16, 8), None
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    profile = StepProfile(1, CPU, warmup=1, traced=2)
    ended = False
    while not ended:
        profile.mark("augment")
        x = torch.randn(2, 4, 16)
        profile.mark("encoder")
        cached_step(model, x, profile.loss(lambda z: z.square().sum()), chunk=4)
        profile.mark("optimizer")
        optimizer.step()
        profile.mark("other")
        ended = profile.end_step()
    path = tmp_path / "trace.json.gz"
    assert profile.write_trace(path)
    assert [file.name for file in tmp_path.iterdir()] == ["trace.json.gz"]
    trace = json.loads(gzip.decompress(path.read_bytes()))
    events = trace["traceEvents"]
    ours = [event for event in events if event.get("cat") == "user_annotation" and event["name"] in PARTS]
    # Two steps; the loss has a range for its way forward and one for its way back.
    assert Counter(event["name"] for event in ours) == {part: 4 if part == "loss" else 2 for part in PARTS}

    def around(name: str) -> list[list[str]]:
        """The parts that each of torch's operations of this name lies in, from the outermost."""
        operations = [event for event in events if event.get("cat") == "cpu_op" and event["name"] == name]
        spans = [(operation["ts"], operation["ts"] + operation["dur"]) for operation in operations]
        return [
            [part["name"] for part in ours if part["ts"] <= begin and end <= part["ts"] + part["dur"]]
            for begin, end in spans
        ]

    assert around("aten::randn") == [["augment"]] * 2
    assert around("aten::addmm") == [["encoder"]] * 2  # a linear layer's product, forward
    assert around("aten::sum")[:1] == [["encoder", "loss"]]  # forward, the first of its step
    assert [parts for parts in around("PowBackward0") if parts] == [["encoder", "loss"]] * 2
    assert around("AddmmBackward0") == [["encoder"]] * 2
    assert all(parts == ["optimizer"] for parts in around("aten::_foreach_add_"))


@pytest.mark.parametrize("steps", [5, 7], ids=["nothing was recorded", "a step was recorded"])
def test_a_process_that_stops_as_torch_records_ends_well(steps: int) -> None:
    # In a process of its own: torch ends one that it still records in with a segmentation fault.
    program = f"""
import torch
from simclr.run.profile import StepProfile

profile, weight = StepProfile(4, torch.device("cpu"), warmup=1, traced=3), torch.ones(3, requires_grad=True)
for _ in range({steps}):
    profile.mark("encoder")
    (weight * weight).sum().backward()
    profile.end_step()
raise SystemExit("something went wrong")
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 1 and "something went wrong" in ended.stderr.splitlines()


def test_nothing_is_recorded_once_the_trace_is_written(tmp_path: Path) -> None:
    for steps in (3, 4):
        profile = StepProfile(2, CPU, warmup=1, traced=3)
        for _ in range(steps):
            profile.mark("encoder")
            profile.end_step()
        assert profile.write_trace(tmp_path / "trace.json.gz") == (steps == 4)
        assert not torch.autograd.profiler._is_profiler_enabled


def test_a_run_that_ends_early_still_writes_what_it_has(tmp_path: Path) -> None:
    for steps, expected in ((3, False), (4, True)):
        profile = StepProfile(2, CPU, warmup=1, traced=5)
        for _ in range(steps):
            profile.mark("encoder")
            assert not profile.end_step()
        assert profile.write_trace(tmp_path / f"{steps}.json.gz") == expected
        assert not profile.write_trace(tmp_path / "again.json.gz")
    profile = StepProfile(1, CPU, warmup=0, traced=1)
    profile.end_step()
    assert profile.end_step()
    with pytest.raises(CheckpointError, match="could not be written"):
        profile.write_trace(tmp_path / "4.json.gz" / "trace.json.gz")  # below a file


def test_operations_of_a_known_network_are_the_hand_counted_ones() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 5, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 7),
    )
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first, second, last = 2 * 4 * 100 * 8 * 27, 2 * 4 * 100 * 5 * 8, 2 * 4 * 5 * 7
    # Forward, the gradient to the weights, and to the inputs of all but the first layer.
    expected = 2 * first + 3 * second + 3 * last
    images = torch.rand(4, 3, 10, 10)
    assert model_flops(model, images) == expected
    assert model_flops(model.requires_grad_(False), images) == expected
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert model.training and all(p.grad is None for p in model.parameters())


def test_grouped_and_transposed_convolutions_count_by_their_own_weights() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 12, 1),
        nn.Conv2d(12, 12, 5, padding=2, groups=12),
        nn.Conv2d(12, 6, 3, padding=1, groups=3),
        nn.ConvTranspose2d(6, 4, 2, stride=2),
    )
    # Multiplications: an image has 64 positions; of inputs each group, and for the last one each input position, counts.
    layers = [64 * 12 * 3, 64 * 12 * 25, 64 * 6 * (12 // 3) * 9, 64 * 6 * 4 * 4]
    assert model_flops(model, torch.rand(5, 3, 8, 8)) == 2 * 5 * (2 * layers[0] + 3 * sum(layers[1:]))


class NeedsValues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * float(x.sum().item())


def test_a_model_that_needs_values_is_not_counted() -> None:
    assert model_flops(NeedsValues(), torch.ones(2)) is None


@pytest.mark.parametrize(
    ("name", "precision", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4e12),
        ("NVIDIA H100 PCIe", "bf16", 756e12),
        ("NVIDIA A100-SXM4-80GB", "tf32", 156e12),
        ("NVIDIA A100 80GB PCIe", "fp32", 19.5e12),
        ("NVIDIA L4", "bf16", 121e12),
        ("NVIDIA L40S", "bf16", 362e12),
        ("Tesla V100-SXM2-16GB", "fp16", 125e12),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2e12),
        ("Tesla V100-SXM2-16GB", "bf16", None),  # it has none in hardware
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bf16", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", None),
        ("NVIDIA A10G", "bf16", None),
    ],
)
def test_a_data_sheet_speaks_for_the_very_device_only(name: str, precision: str, expected: float | None) -> None:
    found = listed_peak(name, precision)
    assert (found and found.flops) == expected
    if found:
        assert name in found.source and "dense" in found.source


def test_an_unknown_device_is_measured_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.backends.cuda.matmul.fp32_precision
    ticks = iter([0.0, 2.0, 2.0, 2.5, 2.5, 3.5])
    monkeypatch.setattr("simclr.run.flops.time.perf_counter", lambda: next(ticks))
    found = measured_peak(CPU, "fp32", size=16, rounds=3)
    assert found.flops == 2 * 16**3 / 0.5 and found.source.startswith("measured")
    assert torch.backends.cuda.matmul.fp32_precision == before
    monkeypatch.undo()
    monkeypatch.setattr("simclr.run.flops.measured_peak", lambda device, precision: Peak(1.0, f"{device} {precision}"))
    assert peak_flops(CPU, "fp32").source == "cpu fp32" and peak_flops(CPU, "bf16").source == "cpu bf16"
