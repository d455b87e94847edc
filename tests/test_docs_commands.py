"""Every command in README and docs runs, on small images and small networks, or says what it needs that a test has not.

What it needs stands in the page: behind the command (``# needs the network``), or above its block in a comment that neither
GitHub nor the site shows (``<!-- needs several GPUs -->``). Commands that another test runs are in ``ELSEWHERE``.
"""

import re
import shlex
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import simclr
from linear_eval import evaluate_run
from simclr.config import EncoderConfig, TrainConfig
from simclr.data.packed.make import MakeOptions, make_shards
from simclr.finetune import finetune_config

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "AGENTS.md")), *(ROOT / "docs").glob("*.md")]
)
LOG = ROOT / "docs" / "decisions.md"
"""What was run on the days it tells of, with the commands of those days."""

PROGRAMS = (
    "accelerate python torchrun simclr pip pytest srun mpirun docker bash ruff pre-commit embedding-atlas tensorboard"
)
STARTS = re.compile(rf"(?:[A-Z_]+=\S+ )?(?:{'|'.join(PROGRAMS.split())})\s")
NEEDS = re.compile(r"needs (?:the network|a GPU|several GPUs|several processes|another program)")
OURS = re.compile(r"(?:python|accelerate launch|simclr) (?:scripts/)?(\w+)(?:\.py)?(.*)")

ELSEWHERE = {
    r"python (-m venv|-m sphinx)|pip install|\.venv|bash \.ci/run|ruff|pre-commit": ".ci/run",
    r"pytest": ".ci/run",
    r"(OMP_NUM_THREADS=1 )?python benchmarks/": "tests/test_benchmarks.py::test_a_benchmark_runs",
    r".*objective:(spread|uniform)": "tests/test_docs.py::test_the_steps_of_adding_an_objective_taken_literally_train_it",
    r"simclr --completion": "tests/test_terminal.py",
    r".*(--plugin rings\.py|runs/rings)": "tests/test_plugins.py::test_the_page_on_ones_own_parts_taken_literally",
}
"""What a command begins with -> where it is run."""


def commands(page: Path) -> list[tuple[str, bool]]:
    """(command, whether the page says what it needs) of every line in a block of code that starts a program."""
    found, fenced, needs = [], None, False
    for line in page.read_text().replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            fenced = line[3:] if fenced is None else None
        elif not line.startswith("    ") and fenced is None:
            needs = bool("<!--" in line and NEEDS.search(line)) or (needs and not line.strip())
        elif (fenced in ("", "bash", "sh") or line.startswith("    ")) and STARTS.match(line.strip()):
            command, _, comment = (part.strip() for part in line.partition(" # "))
            found.append((command, needs or bool(NEEDS.search(comment))))
    return found


def elsewhere(command: str) -> str | None:
    return next((where for start, where in ELSEWHERE.items() if re.match(start, command)), None)


ALL = {command: needs for page in PAGES if page != LOG for command, needs in commands(page)}
RUN = [command for command, needs in ALL.items() if not needs and elsewhere(command) is None]


def test_a_command_is_run_or_says_what_it_needs() -> None:
    assert len(ALL) > 80 and len(RUN) > 40
    scripts = {path.stem for path in (ROOT / "scripts").glob("*.py")}
    unknown = [command for command in RUN if not (ours := OURS.match(command)) or ours[1] not in scripts]
    assert not unknown, "run them in a test, or say above them in the page what they need"


@pytest.mark.parametrize("where", sorted(set(ELSEWHERE.values())))
def test_where_commands_are_run_there_are_tests(where: str) -> None:
    file, _, test = where.partition("::")
    assert f"def {test}(" in (ROOT / file).read_text() if test else (ROOT / file).exists()


def test_commands_are_found_in_both_kinds_of_blocks_with_both_ways_to_say_a_need(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Text with python in it\n\n    python a.py  # as it is\n    python b.py  # needs the network\n\n"
        "<!-- needs a GPU -->\n\n    python c.py \\\n--x 1\n\nText\n\n    python d.py\n\n"
        "```bash\npython e.py\n```\n\n```python\npython = 1\n```\n"
    )
    found = [("python a.py", False), ("python b.py", True), ("python c.py  --x 1", True), ("python d.py", False)]
    assert commands(page) == [*found, ("python e.py", False)]


def shrunk(config: TrainConfig) -> TrainConfig:
    """The config of a command, on the images of the folder DIR where it asks for a set of the network, and small."""
    given = config.encoder.init is not None
    data = replace(config.data, size=20, limit=32, workers=0)
    if config.data.source not in ("folder", "shards", "digits"):
        data = replace(data, source="folder", path=Path("DIR"), channels=3, rotations=False)
    size = config.augment.size if given else 16
    head = replace(config.head, hidden_dim=16, predictor_dim=min(config.head.predictor_dim, 16))
    encoder = EncoderConfig(name="resnet18", layers=(1, 1, 1, 1), channels=(4, 8, 8, 16))
    if given:
        from_file = str(config.encoder.init).endswith(".pth")
        encoder = replace(config.encoder, stem="imagenet" if from_file else "auto")
    loop: dict[str, Any] = {"epochs": 1, "batch_size": 4 if given else 16, "knn_every": 0, "patience": None}
    loop |= {"precision": "fp32", "compile": "no"}
    return replace(
        config,
        data=data,
        augment=replace(config.augment, size=size, mean=None, std=None),
        encoder=encoder,
        head=head,
        sampler=replace(config.sampler, classes=4, per_class=4) if config.sampler.name != "random" else config.sampler,
        schedule=replace(config.schedule, warmup_epochs=0, head_epochs=0, view_sizes=()),
        train=replace(config.train, **loop),
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands name: a folder DIR of five classes, shards of it, runs, files of weights."""
    here = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("test", 4)):
        for label in ("wren", "robin", "finch", "heron", "owl"):
            (here / "DIR" / part / label).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(here / "DIR" / part / label / f"{number}.png")
    Image.fromarray(pixels).save(here / "wren.jpg")
    names = [path.relative_to(here / "DIR") for path in sorted((here / "DIR").rglob("*.png"))]
    (here / "labels.csv").write_text("path,label\n" + "".join(f"{name},{name.parent.name}\n" for name in names))
    folder = replace(simclr.preset("folder").data, path=here / "DIR")
    for shards in ("SHARDS", "birds-shards"):
        make_shards(MakeOptions(out=here / shards, data=folder), "shards")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.chdir(here)
    small = shrunk(replace(simclr.preset("folder-small"), name="birds", data=folder))
    simclr.pretrain(small)
    evaluate_run("runs/birds", save_probe=True)
    for run in ("birds-2", "digits", "omniglot", "letters", "new-classes", "cifar10-cpu"):
        shutil.copytree("runs/birds", f"runs/{run}")
    simclr.pretrain(shrunk(replace(finetune_config("runs/birds"), name="birds-finetuned")))
    monkeypatch.undo()
    (here / "RUN").symlink_to("runs/birds")
    weights = timm.create_model("resnet18", num_classes=0).state_dict()
    torch.save({"arch": "resnet18", "state_dict": weights}, here / "checkpoint-42.pth.tar")
    return here


@pytest.mark.long
@pytest.mark.parametrize("command", RUN)
def test_a_command_runs(
    command: str,
    world: Path,
    lake_runs: Path,
    tmp_path: Path,
    script: Callable[[str], Callable[..., tuple[int, str, str]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, rest = OURS.match(command).groups()
    words = shlex.split(rest)
    here = tmp_path / "here"
    shutil.copytree(world, here, symlinks=True)
    monkeypatch.chdir(here)
    with zipfile.ZipFile("omniglot-runs.zip", "w") as archive:
        for file in sorted(lake_runs.rglob("*")):
            archive.write(file, file.relative_to(lake_runs.parent))
    if "weights.pth" in words:
        network = words[words.index("--encoder.name") + 1]
        torch.save(timm.create_model(network, num_classes=0).state_dict(), "weights.pth")
    shards = "SHARDS" if "--size" in words else words[-1]
    makes = {"pretrain": "runs/*", "finetune": "runs/*-finetuned", "make_shards": shards}.get(name, "nothing")
    for path in [path for path in Path().glob(makes) if name == "make_shards" or str(path) not in words]:
        shutil.rmtree(path)  # the command is to make it anew
    for module, parse in (("simclr.command_line", "parse_command"), ("simclr.finetune", "parse_finetuning")):
        whole = getattr(__import__(module, fromlist=[parse]), parse)
        if name in ("pretrain", "finetune", "preview"):
            monkeypatch.setattr(f"{module}.{parse}", lambda *args, whole=whole, **more: shrunk(whole(*args, **more)))
    code, said, errors = script(name)(*words)
    assert code == 0, said + errors
    assert said
