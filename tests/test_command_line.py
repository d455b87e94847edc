"""The commands as a user types them: what they write, and every mistake as one line, exit code 2, nothing written over."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
from pathlib import Path

import pytest
from PIL import Image

import simclr
from simclr.command_line import parse_command, run_command
from simclr.config import TrainConfig

ROOT = Path(__file__).parent.parent
TINY = [
    "--train.epochs", "2", "--train.batch-size", "128", "--schedule.warmup-epochs", "1", "--train.precision", "fp32",
    "--encoder.channels", "4", "8", "8", "16", "--train.knn-every", "0", "--augment.size", "8",
]  # fmt: skip


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Run a script of ``scripts/`` in a folder of its own; gives its exit code, its output and its errors."""
    monkeypatch.chdir(tmp_path)

    def call(script: str, *words: str) -> tuple[int, str, str]:
        spec = importlib.util.spec_from_file_location(f"script_{script}", ROOT / "scripts" / f"{script}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)  # where the source of its classes is looked for
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *words])
        code = run_command(module.main)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs, not scored yet."""
    out = tmp_path_factory.mktemp("finished")
    return simclr.pretrain(parse_command(["--out", str(out), *TINY], "pretrain.py", "")).run_dir


@pytest.mark.pictures
def test_pretrain_ends_with_the_table(run, tmp_path: Path) -> None:
    code, out, err = run("pretrain", *TINY, "--name", "mine", "--data.limit", "400")
    assert code == 0, err
    for word in ("encoder", "untrained", "raw pixels", "linear", "kNN"):
        assert word in out
    result = json.loads((tmp_path / "runs" / "mine" / "result.json").read_text())
    assert set(result["rows"]) == {"encoder", "untrained", "raw pixels"}
    low, high = result["rows"]["encoder"]["linear"]["interval"]
    assert low <= result["rows"]["encoder"]["linear"]["accuracy"] <= high


def flags_in(help_text: str) -> set[str]:
    return {flag for line in re.findall(r"^. (-.*)", help_text, re.M) for flag in re.findall(r"--[a-z][\w.-]*", line)}


@pytest.mark.parametrize(
    "script", ["pretrain", "finetune", "preview", "check_data", "evaluate", "embed", "export", "report"]
)
def test_help_counts_what_it_leaves_to_help_all(script: str, run, capsys: pytest.CaptureFixture[str]) -> None:
    shown = {}
    for word in ("--help", "-h", "--help-all"):
        with pytest.raises(SystemExit) as stop:
            run(script, word)
        assert not stop.value.code
        shown[word] = capsys.readouterr().out
    some, every = flags_in(shown["--help"]), flags_in(shown["--help-all"])
    assert some <= every and shown["-h"] == shown["--help"]
    some, every = ({flag.replace(".no-", ".").replace("--no-", "--") for flag in flags} for flags in (some, every))
    left_out = len(every - some)
    text = (ROOT / "scripts" / f"{script}.py").read_text()
    lines = shown["--help"].splitlines()
    assert text.startswith(f'"""{lines[0][:-1]}: ``') and len(lines) <= 60 and max(map(len, lines[4:-2])) <= 110
    *_, last = shown["--help"].splitlines()
    if script in ("export", "report"):  # few flags, all shown
        assert left_out == 0 and "--help-all" not in last
    else:
        assert last.split()[0] == str(left_out) and last.endswith("--help-all") and left_out >= 5
    assert "--help-all" not in shown["--help-all"].splitlines()[-1]


def test_flags_that_help_leaves_out_are_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = parse_command(
        ["cifar10", "--optim.momentum", "0.8", "--mix.mixup", "0.2", "objective:cross-entropy"], "", ""
    )
    assert (config.optim.momentum, config.mix.mixup, type(config)) == (0.8, 0.2, TrainConfig)
    with pytest.raises(SystemExit):
        parse_command(["cifar10", "objective:triplet", "--help"], "pretrain.py", "")
    said = capsys.readouterr().out
    assert {"--train.epochs", "--objective.margin", "--objective.mining"} <= flags_in(said)
    assert not {"--optim.momentum", "--mix.mixup", "--sampler.name"} & flags_in(said)


def test_the_last_of_a_flag_given_twice_counts() -> None:
    words = ["--train.no-evaluate", "--seed", "1", "--train.evaluate", "--train.no_evaluate", "--seed=2"]
    config = parse_command(words, "", "")
    assert (config.train.evaluate, config.seed) == (False, 2)


def test_evaluate_on_another_set(run, finished: Path, image_folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    words = [
        "--data.source",
        "folder",
        "--data.path",
        str(image_folder),
        "--eval.trials",
        "2",
        "--eval.resamples",
        "100",
    ]
    code, out, err = run("evaluate", str(finished), *words)
    assert code == 0, err
    assert "encoder" in out
    results = [path for path in finished.rglob("result.json") if path.parent != finished]
    assert len(results) == 1
    assert before.items() <= {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}.items()


def test_preview_writes_a_picture(run, tmp_path: Path) -> None:
    code, out, err = run("preview", "digits")
    assert code == 0, err
    with Image.open(tmp_path / out.strip()) as picture:
        assert picture.width > 500


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["digts"], "did you mean digits"),
        (["--data.limit", "all"], "--data.limit: expected {None}|INT, got 'all'"),
        (["--augment.blur", "often"], "--augment.blur: expected FLOAT|{[FLOAT [FLOAT ...]]}, got 'often'"),
        (["--train.epoch", "3"], "did you mean --train.epochs?"),
        (["digits", "--data.source", "folder"], "data.path is not set"),
        (["folder", "--data.path", "nowhere"], "the folder nowhere does not exist"),
        (["folder", "--data.path", "empty"], "no image below empty"),
        (["folder", "--data.path", "few", "--train.batch-size", "64", "--data.size", "16", "--augment.size", "16",
          "--encoder.name", "resnet18"], "fewer than one batch of 64"),
        (["--encoder.name", "resnet19"], "did you mean"),
        (["--train.trackers", "tensorbord"], "tensorbord"),
        (["--optim.momentun", "0.8"], "did you mean --optim.momentum?"),  # left out of --help, and suggested all the same
        (["config.yaml"], "unknown key 'epoch'"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_leaves_nothing(words: list[str], said: str, run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "few").mkdir()
    for i in range(10):
        Image.new("RGB", (16, 16), (i, i, i)).save(tmp_path / "few" / f"{i}.png")
    (tmp_path / "config.yaml").write_text("train: {epoch: 3}\n")
    code, out, err = run("pretrain", *words)
    assert code == 2
    assert said in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert out == ""
    assert not (tmp_path / "runs").exists()


def test_at_a_terminal_a_run_says_at_once_what_it_is(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    code, out, err = run("pretrain", "folder", "--data.path", "nowhere", "--name", "birds")
    assert (code, out) == (2, "")
    assert err.startswith("runs/birds: resnet50 on nowhere\nerror: the folder nowhere does not exist")
    monkeypatch.setenv("RANK", "1")
    assert "resnet50" not in run("pretrain", "folder", "--data.path", "nowhere")[2]


def test_without_a_network_cifar10_is_one_line(run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    code, _, err = run("pretrain", "cifar10")
    assert code == 2
    assert "put cifar-10-python.tar.gz" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "the run is 'nowhere': there is no such file or folder, and timm has no model of that name"),
        ([], "unlabelled"),
        (["--eval.knn", "3"], "did you mean --eval.knn-k?"),
        (["--eval.validation", "2"], "validation"),
    ],
    ids=str,
)
def test_evaluation_mistakes(words: list[str], said: str, run, finished: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for i in range(4):
        Image.new("RGB", (16, 16), (i, i, i)).save(flat / f"{i}.png")
    if not words:
        words, said = [str(finished), "--data.source", "folder", "--data.path", str(flat)], "has no labels"
    elif words[0].startswith("--"):
        words = [str(finished), *words]
    code, _, err = run("evaluate", *words)
    assert code == 2
    assert said in err
    assert err.strip().count("\n") == 0
    assert not (finished / "result.json").exists()


def test_a_changed_config_is_refused_with_the_difference(run, finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    code, _, err = run("pretrain", "--out", str(finished.parent), *TINY, "--optim.learning-rate", "0.05")
    assert code == 2
    assert "optim.learning_rate: 0.002 -> 0.05" in err
    assert err.count("\n") == 1
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*")}


def test_a_real_process_exits_with_2_and_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "pretrain.py"), "digts"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "did you mean digits" in done.stderr


def test_a_value_out_of_range_is_one_plain_line_on_a_narrow_terminal_too(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    code, _, err = run("pretrain", "cifar10-lars", "--optim.name", "adamw")
    assert code == 2
    wanted = "error: optim.learning_rate=1 is a rate for LARS; adamw takes about 1e-3, with scaling sqrt\n"
    assert err == wanted


def test_a_terminal_without_utf8_gets_escapes_and_no_traceback(tmp_path: Path) -> None:
    folder = tmp_path / "\u00fcnic\u00f6de"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    (folder / "\u00e4.png").write_bytes(b"broken")
    plain = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, str(ROOT / "scripts" / "check_data.py"), "--data.path", str(folder)]
    done = subprocess.run(command, capture_output=True, env=plain, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    assert "\\xe4.png" in done.stdout


def test_other_images_bring_their_own_labels(run, image_folder: Path, tmp_path: Path) -> None:
    """The run read no labels of its folder; those of another one are read, and its report has a name of its own."""
    tiny = [*TINY, "--train.batch-size", "8", "--data.size", "16", "--augment.size", "16", "--train.no-evaluate"]
    flags = [
        "--encoder.name", "resnet18", "--encoder.layers", "1", "1", "1", "1", "--data.workers", "0", "--name", "none",
    ]  # fmt: skip
    code, out, err = run("pretrain", "folder", "--data.path", str(image_folder), "--data.labels", "none", *tiny, *flags)
    assert code == 0, err
    assert "--data.labels FILE.csv" in out
    others = [tmp_path / name / image_folder.name for name in ("second", "third")]
    for other in others:
        shutil.copytree(image_folder, other)
        next(other.rglob("*.png")).unlink()  # a copy of all of it would be the same set
    quick = ["--eval.trials", "1", "--eval.resamples", "20"]
    for path in (image_folder, *others):
        code, _, err = run("evaluate", "runs/none", "--data.path", str(path), *quick)
        assert code == 0, err
    assert len(list((tmp_path / "runs" / "none").glob("on-folder-pictures-*/result.json"))) == 2
    assert (tmp_path / "runs" / "none" / "result.json").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
def test_what_cannot_be_printed_ends_no_command() -> None:
    """As to a terminal that was closed, a pipe that nobody reads, or a file on a full disk."""
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        command = [sys.executable, str(ROOT / "scripts" / "export.py"), "--help"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0 and done.stderr == ""
