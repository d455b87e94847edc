"""Whatever is read, fed with rubbish: nothing but the project's own errors of one line, and no hang.

Hypothesis draws the inputs, the same ones every time; ``--long`` draws forty times as many. How many were tried, how many of
them refused, and what the slowest took stands under pytest's results.
"""

import io
import json
import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import simclr
from augment import AugmentConfig
from linear_eval import LinearClassifier
from linear_eval.classify.saved_probe import SavedProbe, read_probe, write_probe
from linear_eval.comparison.pictures import draw_runs
from linear_eval.comparison.runs import read_runs, seed_groups
from linear_eval.comparison.tables import compare_runs
from linear_eval.features.extract import Features
from linear_eval.page.document import page_of, rendered
from simclr.command_line import parse_command
from simclr.config import EncoderConfig, TrainConfig
from simclr.config.yaml import flat_fields, load_config, save_config, to_dict
from simclr.data.decode import Reader
from simclr.data.metadata import read_metadata
from simclr.data.parts_list import FILE, read_parts
from simclr.errors import PipelineError
from simclr.exchange.encoder import export_encoder
from simclr.model.encoder import build_backbone
from simclr.names import printable
from simclr.run.checkpoint import newest_checkpoint, save_checkpoint
from simclr.run.checkpoint_content import RUN_PROGRESS, RUN_STATE
from simclr.run.log import RunLog, read_metrics
from simclr.run.pictures import draw_curves

SECONDS = 60
"""After which an input is taken to hang; most take a few milliseconds."""

LONG = 40
"""How many times as many inputs ``--long`` draws."""


class HangError(BaseException):
    """No error of a program: nothing that catches exceptions catches it."""


@contextmanager
def a_while() -> Iterator[None]:
    if not hasattr(signal, "setitimer"):  # Windows
        yield
        return

    def ring(*of: object) -> None:
        raise HangError(f"still busy after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


Fuzz = Callable[[str, int, st.SearchStrategy[Any], Callable[[Any], object]], None]


@pytest.fixture
def fuzz(request: pytest.FixtureRequest, tally: Callable[[str], None]) -> Fuzz:
    """``fuzz(what, count, inputs, read)``: ``read`` of every drawn input returns, or raises a PipelineError of one line."""

    def run(what: str, count: int, inputs: st.SearchStrategy[Any], read: Callable[[Any], object]) -> None:
        count *= LONG if request.config.getoption("--long") else 1
        tried = refused = 0
        slowest = 0.0

        @settings(
            max_examples=count, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(inputs)
        def each(value: Any) -> None:
            nonlocal tried, refused, slowest
            tried += 1
            began = time.monotonic()
            with a_while():
                try:
                    read(value)
                except PipelineError as error:
                    refused += 1
                    said = printable(str(error))  # as a command prints it
                    assert "\n" not in said and 0 < len(said) < 20_000, said
            slowest = max(slowest, time.monotonic() - began)

        each()
        tally(f"{what}: {tried} inputs, {refused} refused, the slowest took {slowest:.2f} s")

    return run


KINDS_OF_EDIT = st.sampled_from(["set", "flip", "cut", "insert", "repeat", "drop"])


def edits_up_to(share: float) -> st.SearchStrategy[list[tuple[float, str, bytes]]]:
    """Where in a file, as a share of its length, what is done there, and with which bytes; one to four times."""
    edit = st.tuples(st.floats(0, share, exclude_max=True), KINDS_OF_EDIT, st.binary(max_size=6))
    return st.lists(edit, min_size=1, max_size=4)


EDITS = edits_up_to(1)


def edited(content: bytes, edits: list[tuple[float, str, bytes]]) -> bytes:
    for share, kind, given_bytes in edits:
        place, some = int(share * len(content)), given_bytes or b"\xff"
        before, after = content[:place], content[place:]
        content = {
            "set": before + some + after[len(some) :],
            "flip": before + bytes(byte ^ some[0] for byte in after[:1]) + after[1:],
            "cut": before,
            "insert": before + some + after,
            "repeat": before + after[:40] * 3 + after,
            "drop": before + after[len(some) * 3 :],
        }[kind]
    return content


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 70), st.sampled_from([10**9, 2**63, 10**19, -(10**30), 10**400]),
    st.floats(), st.sampled_from([1e39, 1e-39, -0.0, 0.5]), st.text(max_size=8),
    st.sampled_from(["", "nan", "inf", "1e-3", "auto", "none", "../..", "\0", "\udcff", "[bold]", "a" * 5000]),
)  # fmt: skip
"""Values that stand where others belong."""
TREES = st.recursive(
    ODD, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)


def paths_in(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a tree of dictionaries and lists."""
    if at:
        yield at
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from paths_in(value, (*at, key))


def changed_trees(tree: Any) -> st.SearchStrategy[Any]:
    """``tree`` with an odd value, or nothing, in one to three of its places."""
    changes = st.lists(st.tuples(st.sampled_from(list(paths_in(tree))), TREES | st.just(...)), min_size=1, max_size=3)

    def change(places: list[tuple[tuple[Any, ...], Any]]) -> Any:
        new = json.loads(json.dumps(tree))
        for path, value in places:
            with suppress(LookupError, TypeError, AttributeError):
                holder = new
                for key in path[:-1]:
                    holder = holder[key]
                if value is ...:
                    del holder[path[-1]]
                else:
                    holder[path[-1]] = value
        return new

    return changes.map(change)


def as_json(tree: Any) -> bytes:
    return json.dumps(tree).encode(errors="surrogatepass")


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    start = simclr.preset("digits")
    return replace(start, encoder=EncoderConfig(name="resnet18", layers=(1, 1, 1, 1), channels=(4, 4, 4, 4)))


def test_configs(fuzz: Fuzz, config: TrainConfig, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    save_config(config, file)
    whole = file.read_bytes()

    def read(content: bytes) -> None:
        file.write_bytes(content)
        save_config(load_config(file), tmp_path / "again.yaml")

    fuzz("config, bytes", 60, EDITS.map(lambda edits: edited(whole, edits)), read)
    plain = changed_trees(to_dict(config)) | TREES
    fuzz("config, values", 120, plain.map(lambda tree: yaml.safe_dump(tree).encode(errors="surrogatepass")), read)
    syntax = st.text(st.sampled_from("[]{}:,&*!|>-?#%@`'\"\n \tab01~<.="), max_size=40)
    fuzz("config, syntax", 120, syntax.map(str.encode), read)


def test_flags(fuzz: Fuzz) -> None:
    known = [f"--{name.replace('_', '-')}" for name in flat_fields(to_dict(TrainConfig()))]
    flags = st.sampled_from(known) | st.text(max_size=6).map(lambda text: f"--{text}")
    words = st.sampled_from(
        ["digits", "cifar10", "nowhere", "objective:triplet", "objective:x", "--", "-x", "=", "--data.size=8"]
    )
    values = st.one_of(ODD.map(str), st.sampled_from(["1", "0.5", "x"]))
    lines = st.lists(st.tuples(flags, values).map(list) | words.map(lambda word: [word]), max_size=3)

    def read(parts: list[list[str]]) -> None:
        try:
            with redirect_stdout(io.StringIO()):
                parse_command([word for part in parts for word in part], "pretrain.py", "about")
        except SystemExit as stop:
            assert not stop.code, "only help ends a command like this"

    fuzz("flags", 40, lines, read)


def test_label_files(fuzz: Fuzz, tmp_path: Path) -> None:
    names = [f"{folder}/{number}.png" for folder in "ab" for number in range(4)]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    rows = [{"path": name, "label": name[0], "group": name[-5], "value": 0.5} for name in names]
    csv = "path,label,group\n" + "".join(f"{row['path']},{row['label']},{row['group']}\n" for row in rows)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    wholes = {"labels.csv": csv.encode(), "labels.jsonl": lines.encode(), "labels.json": json.dumps(rows).encode()}

    def read(drawn: tuple[str, bytes]) -> None:
        file = tmp_path / drawn[0]
        file.write_bytes(drawn[1])
        read_metadata(file, tmp_path, [tmp_path / name for name in names])

    damaged = st.tuples(st.sampled_from(sorted(wholes)), EDITS).map(
        lambda drawn: (drawn[0], edited(wholes[drawn[0]], drawn[1]))
    )
    fuzz("label file, bytes", 120, damaged, read)
    cells = st.one_of(ODD, st.sampled_from(["a/0.png", "a/0", "p" * 5000, "/", "..", "\0", '"', "a/0.png\nb"]))
    odd_rows = st.lists(st.lists(cells.map(str), max_size=4), max_size=4)
    headed = odd_rows.map(
        lambda drawn: (
            "labels.csv",
            "\n".join(["path,label,value", *map(",".join, drawn)]).encode(errors="surrogatepass"),
        )
    )
    fuzz("label file, cells", 120, headed, read)
    fuzz("label file, values", 80, changed_trees(rows).map(lambda tree: ("labels.json", as_json(tree))), read)


def test_checkpoints(fuzz: Fuzz, tmp_path: Path) -> None:
    notes = {"processes": 1, "epoch_loss": 2.5, "names": ["a"]}
    state = {
        "optimizer": {"state": {0: {"velocity": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "scaler": None,
    }
    folder = save_checkpoint(tmp_path, 2, {"w": torch.ones(3)}, state, notes)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}

    def read(drawn: tuple[str, bytes]) -> None:
        name, content = drawn
        for file, whole in files.items():
            (folder / file).write_bytes(whole)
        (folder / name).write_bytes(content)
        if name != "manifest.json":  # one that fits, so that the content is looked at
            digests = {
                file: sha256((folder / file).read_bytes()).hexdigest() for file in files if file != "manifest.json"
            }
            (folder / "manifest.json").write_text(json.dumps(digests))
        found, said = newest_checkpoint(tmp_path, RUN_PROGRESS, RUN_STATE)
        assert found is not None and said == [] and found.progress["step"] == 2
        assert math.isfinite(found.progress["epoch_loss"])
        assert all(bool(tensor.isfinite().all()) for tensor in found.model().values())

    def damaged(name: str) -> st.SearchStrategy[tuple[str, bytes]]:
        return EDITS.map(lambda edits: (name, edited(files[name], edits)))

    def odd(name: str) -> st.SearchStrategy[tuple[str, bytes]]:
        return (changed_trees(json.loads(files[name])) | TREES).map(lambda tree: (name, as_json(tree)))

    fuzz("manifest", 150, damaged("manifest.json") | odd("manifest.json"), read)
    fuzz("progress", 150, damaged("progress.json") | odd("progress.json"), read)
    fuzz("model.safetensors", 100, damaged("model.safetensors"), read)
    fuzz("state.pt", 100, damaged("state.pt"), read)


def test_encoders(fuzz: Fuzz, config: TrainConfig, tmp_path: Path) -> None:
    backbone = build_backbone(config.encoder, 16, seed=0)
    augment = AugmentConfig(size=16, mean=(0.4,), std=(0.3,))
    folder = export_encoder(
        backbone, tmp_path / "encoder", config=config.encoder, augment=augment, seed=0, training={"run": "a"}
    )
    file, weights = folder / "encoder.json", folder / "encoder.safetensors"
    whole, tensors = file.read_bytes(), weights.read_bytes()
    plain = {key: value for key, value in json.loads(whole).items() if key != "sha256"}
    wanted = simclr.load_encoder(folder).state_dict()

    def read(content: bytes) -> None:
        file.write_bytes(content)
        encoder = simclr.load_encoder(folder)
        assert encoder.size >= 2 and encoder.features == 4 and all(one > 0 for one in encoder.std or ())
        assert all((encoder.state_dict()[name] == tensor).all() for name, tensor in wanted.items())

    fuzz("encoder.json, bytes", 100, EDITS.map(lambda edits: edited(whole, edits)), read)
    fuzz("encoder.json, values", 150, (changed_trees(plain) | TREES).map(as_json), read)

    def read_weights(edits: list[tuple[float, str, bytes]]) -> None:
        weights.write_bytes(edited(tensors, edits))
        encoder = simclr.load_encoder(folder)
        assert all(bool(tensor.isfinite().all()) for tensor in encoder.state_dict().values())

    file.write_text(json.dumps(plain))
    fuzz("encoder.safetensors without a digest", 60, edits_up_to(0.2), read_weights)  # its header, for the most part


def test_probes(fuzz: Fuzz, tmp_path: Path) -> None:
    weights = LinearClassifier(torch.ones(2, 3), torch.zeros(2), torch.zeros(3), torch.ones(3), torch.arange(2))
    rest = {
        "calibrated_on": 4,
        "fitted_on": 9,
        "images": "birds",
        "encoder": "00ff",
        "input_size": 16,
        "precision": "fp32",
    }
    probe = SavedProbe(classifier=weights, names=("a", "b"), temperature=2.0, reader=Reader(size=16), **rest)
    write_probe(probe, tmp_path)
    file, tensors = tmp_path / "probe.json", tmp_path / "probe.safetensors"
    whole, content = file.read_bytes(), tensors.read_bytes()
    plain = {key: value for key, value in json.loads(whole).items() if key != "sha256"}

    def read(text: bytes) -> None:
        file.write_bytes(text)
        found = read_probe(file)
        assert len(found.names) == 2 and found.temperature > 0 and found.reader.size >= 2

    def read_weights(edits: list[tuple[float, str, bytes]]) -> None:
        tensors.write_bytes(edited(content, edits))
        assert bool(read_probe(file).classifier.weight.isfinite().all())

    fuzz("probe.json, bytes", 30, EDITS.map(lambda edits: edited(whole, edits)), read)
    fuzz("probe.json, values", 50, (changed_trees(plain) | TREES).map(as_json), read)
    file.write_text(json.dumps(plain))
    fuzz("probe.safetensors without a digest", 20, EDITS, read_weights)


def test_logs_and_results(fuzz: Fuzz, config: TrainConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    save_config(config, run / "config.yaml")
    figures = {"loss": 2.0, "learning_rate": 0.1, "images_per_second": 900.0, "data_wait": 0.1, "seconds_left": 3.0}
    lines = [{"kind": "step", "step": step, "epoch": 1, **figures} for step in range(1, 5)]
    lines.append({"kind": "epoch", "step": 4, "epoch": 1, "epoch_loss": 2.0, "knn": 0.5})
    whole = "".join(json.dumps(line) + "\n" for line in lines).encode()
    accelerator: Any = SimpleNamespace(
        is_main_process=True, device=torch.device("cpu"), log=lambda *given, **named: None
    )

    def read(content: bytes) -> None:
        log = run / "metrics.jsonl"
        log.write_bytes(content)
        compare_runs([run])
        with RunLog(run, accelerator, total_steps=8, start_step=3) as going_on:
            going_on.step(4, 1, figures)
        assert [line["step"] for line in read_metrics(log) if line["kind"] == "step"][-1] == 4

    odd = st.lists(changed_trees(lines[0]) | TREES, max_size=5).map(lambda trees: b"\n".join(map(as_json, trees)))
    fuzz("metrics.jsonl, bytes", 100, EDITS.map(lambda edits: edited(whole, edits)), read)
    fuzz("metrics.jsonl, values", 100, odd, read)

    def draw(content: bytes) -> None:
        (run / "metrics.jsonl").write_bytes(content)
        draw_runs(seed_groups(read_runs([run])))
        draw_curves(run / "metrics.jsonl", run / "curves.png")
        rendered(page_of(read_runs([run])))

    fuzz("curves", 8, odd, draw)

    def of_config(content: bytes) -> None:
        (run / "config.yaml").write_bytes(content)
        compare_runs([run])

    written = (run / "config.yaml").read_bytes()
    fuzz("a report's config.yaml", 60, EDITS.map(lambda edits: edited(written, edits)), of_config)
    (run / "config.yaml").write_bytes(written)
    row = {
        "features": 4,
        "linear": {"accuracy": 0.5, "interval": [0.4, 0.6]},
        "knn": {"accuracy": 0.5, "interval": [0.4, 0.6]},
    }
    result = {
        "rows": {"encoder": row},
        "config": {"trials": 2},
        "data": {"test": {"name": "a", "images": 3}, "classes": ["a"]},
    }

    def of_result(content: bytes) -> None:
        (run / "result.json").write_bytes(content)
        compare_runs([run])

    fuzz("result.json", 100, changed_trees(result).map(as_json), of_result)

    def on_a_page(content: bytes) -> None:
        (run / "result.json").write_bytes(content)
        rendered(page_of(read_runs([run])))

    fuzz("a report of result.json", 12, changed_trees(result).map(as_json), on_a_page)


def test_lists_of_images(fuzz: Fuzz, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for number in range(12):
        (folder / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number * 20, 0, 0)).save(folder / "ab"[number % 2] / f"{number}.png")
    start = simclr.preset("digits")
    config = replace(
        start,
        out=tmp_path,
        data=replace(start.data, source="folder", path=folder, size=8),
        augment=replace(start.augment, size=8),
        encoder=EncoderConfig(name="resnet18", layers=(1, 1, 1, 1), channels=(4, 4, 4, 4)),
        schedule=replace(start.schedule, warmup_epochs=0),
        train=replace(start.train, epochs=1, batch_size=4, knn_every=0, precision="fp32"),
    )
    file = simclr.pretrain(config).run_dir / FILE
    whole = file.read_bytes()

    def read(content: bytes) -> None:
        file.write_bytes(content)
        read_parts(file)

    fuzz("images.csv, bytes", 120, EDITS.map(lambda edits: edited(whole, edits)), read)
    head, _, rows = whole.partition(b"\n")
    heads = changed_trees(json.loads(head.removeprefix(b"# "))) | TREES
    fuzz("images.csv, its head", 60, heads.map(lambda tree: b"# " + as_json(tree) + b"\n" + rows), read)


KINDS = {
    "JPEG": {"quality": 80}, "PNG": {}, "TIFF": {"compression": "tiff_lzw"}, "WEBP": {}, "GIF": {}, "BMP": {}, "AVIF": {},
    "TGA": {}, "PPM": {}, "JPEG2000": {},
}  # fmt: skip


@pytest.mark.parametrize("kind", [*KINDS, "TIFF of 16 bits", "NPY", "noise"])
def test_images(kind: str, fuzz: Fuzz, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    file, raw = tmp_path / "image.jpg", io.BytesIO()
    if kind == "NPY":
        np.save(raw, values)
    elif kind == "TIFF of 16 bits":
        Image.fromarray(values[..., 0].astype(np.uint16) * 257).save(raw, "TIFF")
    elif kind == "noise":
        raw.write(b"\xff\xd8\xff\xe0")
    else:
        try:
            Image.fromarray(values).save(raw, kind, **KINDS[kind])
        except (KeyError, OSError):
            pytest.skip(f"Pillow is built without {kind}")
    whole = raw.getvalue()

    def read(content: bytes) -> None:
        file.write_bytes(content)
        assert Reader(size=16).square(file).shape == (3, 16, 16)

    contents = (
        st.binary(max_size=200).map(whole.__add__) if kind == "noise" else EDITS.map(lambda edits: edited(whole, edits))
    )
    fuzz(kind, 60, contents, read)


def test_features(fuzz: Fuzz, tmp_path: Path) -> None:
    folder = tmp_path / "features"
    Features(torch.rand(6, 3), torch.arange(6), torch.arange(6)).save(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}

    def read(drawn: tuple[str, list[tuple[float, str, bytes]]]) -> None:
        for name, whole in files.items():
            (folder / name).write_bytes(edited(whole, drawn[1]) if name == drawn[0] else whole)
        assert len(Features.load(folder, mmap=False)) >= 0

    fuzz("features", 120, st.tuples(st.sampled_from(sorted(files)), EDITS), read)
    shutil.rmtree(folder)
