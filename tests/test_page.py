"""The report as people get it: its figures are those of the files, it loads nothing, and a real browser works with it."""

import json
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import simclr
from linear_eval import EvalConfig, evaluate_run, paired_difference
from linear_eval.answers import certainty_of, read_answers
from linear_eval.classify.result import LinearClassifier, score_predictions
from linear_eval.page.images import as_json
from linear_eval.page.live import served
from linear_eval.page.map import FORMS, draw_map
from linear_eval.page.options import PageOptions
from linear_eval.page.write import live_reply, report, write_page
from simclr.config import EncoderConfig, HeadConfig, LoopConfig
from simclr.errors import CheckpointError, ConfigError
from simclr.names import as_utf8, printable

Command = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.pictures

NASTY = "<script>document.title='x'</script><b>&amp;"
"""A class that would be markup if a page let it."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits in a folder, one class with a name of markup, five labels wrong, three images twice; trained for a moment."""
    home = tmp_path_factory.mktemp("page")
    digits = load_digits()
    names = {0: "zero", 1: NASTY.replace("/", "∕"), 2: "two"}
    chosen = [i for i in range(400) if digits.target[i] in names]
    for number, i in enumerate(chosen):
        wrong = number in (20, 30, 40, 50, 60)
        label = (digits.target[i] + wrong) % 3
        folder = home / "images" / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((digits.images[i] * 15.9).astype(np.uint8)).resize((32, 32), Image.Resampling.BICUBIC)
        image.save(folder / f"{i:03}.png")
        if number in (3, 4, 5):
            image.save(folder / f"{i:03} again.png")
    config = simclr.preset("digits")
    config = replace(
        config,
        name="three",
        out=home / "runs",
        data=replace(config.data, source="folder", path=home / "images"),
        encoder=EncoderConfig(name="resnet18", layers=(1, 1, 1, 1), channels=(8, 16, 16, 32)),
        head=HeadConfig(out_dim=16),
        schedule=replace(config.schedule, warmup_epochs=0),
        train=LoopConfig(epochs=4, batch_size=32, precision="fp32", log_every=2, knn_every=1),
    )
    simclr.pretrain(config)
    evaluate_run(config.run_dir, config=EvalConfig(strengths=(1e-3, 1e-2), resamples=100, trials=0))
    return config.run_dir


@pytest.fixture(scope="module")
def page(run: Path) -> Path:
    return write_page(run)


class Tags(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_its_figures_are_those_of_the_files(run: Path, page: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    text = " ".join(Tags(page).text)
    for row in result["rows"].values():
        low, high = (100 * end for end in row["linear"]["interval"])
        assert f"{100 * row['linear']['accuracy']:.1f}" in text and f"[{low:.1f}, {high:.1f}]" in text
    assert result["verdict"].partition(": ")[2].split(" ")[0] in text
    counts = np.array(result["rows"]["encoder"]["linear"]["confusion"])
    cells = [a for tag, a in Tags(page).found if tag == "button" and "data-cell" in a]
    spoken = re.findall(
        r"(\d+) of (.*?) taken for (.*?)$", "\n".join(c["aria-label"] or "" for c in cells), re.MULTILINE
    )
    assert sorted(int(count) for count, _, _ in spoken) == sorted(counts[counts > 0].tolist())
    assert sum(int(count) for count, true, taken in spoken if true == taken) == counts.trace()


def test_it_loads_nothing_and_names_stay_text(page: Path) -> None:
    found = Tags(page).found
    addresses = [a[key] or "" for _, a in found for key in ("src", "href", "srcset", "data") if key in a]
    assert addresses and all(one.startswith(("data:image/", "#")) for one in addresses)
    assert not [tag for tag, _ in found if tag in ("link", "iframe", "object", "embed", "b&amp;")]
    content = [json.loads(t) for t in re.findall(r'application/json" id="images">(.*?)</script>', page.read_text())]
    assert len(content) == 1 and any(NASTY.replace("/", "∕") in (one[2] or "") for one in content[0])
    assert page.stat().st_size < 4_000_000


def test_no_name_ends_the_script_that_holds_it() -> None:
    names = ["</script><script>alert(1)", "</script x", "<!--<script>", "]]>&amp;\u2028", os.fsdecode(b"caf\xe9")]
    text = as_json({"names": names})
    assert not set("<>&") & set(text)  # HTML's own rule for what may stand in a script is longer, and begins with "<"
    assert json.loads(text)["names"] == [as_utf8(printable(name)) for name in names]


def test_how_sure_an_answer_is_also_of_a_class_that_training_lacks() -> None:
    x, truth = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 5, 9, 1, 2, 5, 0, -1])
    weight, bias = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0.1, -0.2, 0.3])
    classifier = LinearClassifier(weight, bias, torch.zeros(4), torch.ones(4), torch.tensor([0, 2, 5]))
    probe = score_predictions(classifier.predict(x), truth, truth[:3], chosen=None, classifier=classifier)
    found = certainty_of(probe, x, truth)
    assert found is not None
    z = x.double().numpy() @ weight.double().numpy().T + bias.double().numpy()
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    known = {0: 0, 2: 1, 5: 2}
    assert found[0].numpy() == pytest.approx(p.max(1), abs=1e-6)
    assert found[1].numpy() == pytest.approx(
        [p[i, known[y]] if y in known else 0 for i, y in enumerate(truth.tolist())], abs=1e-6
    )


def test_answers_are_image_by_image_what_the_score_counted(run: Path) -> None:
    result, answers = json.loads((run / "result.json").read_text()), read_answers(run)
    assert answers is not None and answers.confidence is not None and answers.of_the_class is not None
    right = {
        heading: np.array([a == b for a, b in zip(said, answers.truth, strict=True)])
        for heading, said in answers.said.items()
    }
    for name, row in result["rows"].items():
        assert right[f"linear: {name}"].mean() == pytest.approx(row["linear"]["accuracy"])
        assert right[f"kNN: {name}"].mean() == pytest.approx(row["knn"]["accuracy"])
    pair = paired_difference(right["linear: encoder"], right["linear: raw pixels"])
    assert pair["difference"] == pytest.approx(result["comparison"]["encoder - raw pixels"]["linear"]["difference"])
    sure, true = np.array(answers.confidence), np.array(answers.of_the_class)
    assert ((sure > 1 / 3) & (sure <= 1)).all() and (
        sure[right["linear: encoder"]] == true[right["linear: encoder"]]
    ).all()
    assert (true <= sure).all() and {len(answers.images)} == {len(set(answers.images))}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's chromium without a window, in a light theme and 1,200 pixels wide."""
    if which("chromedriver") is None or which("chromium") is None:
        pytest.skip("needs chromium and chromedriver (Debian: apt install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.binary_location = which("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(which("chromedriver")))
    driver.set_window_size(1200, 900)
    yield driver
    driver.quit()


def opened(browser: Any, address: str) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(address)
    WebDriverWait(browser, 60).until(lambda b: b.execute_script("return document.body.dataset.ready") == "yes")


def click(browser: Any, element: Any) -> None:
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
    element.click()


def complaints(browser: Any) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")]


def requests(browser: Any) -> set[str]:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    return {address for address in sent if not address.startswith(("data:", "blob:"))}


def test_a_browser_opens_it_from_the_disk(browser: Any, page: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    opened(browser, page.as_uri())
    assert complaints(browser) == [] and requests(browser) == {page.as_uri()}
    assert browser.title == "three"  # and not what a class called <script> would have made of it
    pictures = browser.find_elements(By.CSS_SELECTOR, "[data-image] img")
    assert pictures and all(one.get_attribute("alt") for one in pictures)
    assert browser.execute_script("return [...document.images].every(i => i.complete && i.naturalWidth > 0)")

    cell = browser.find_element(By.CSS_SELECTOR, "[data-cell]")
    cell.send_keys("\n")  # by the keyboard
    said = re.match(r"\d+", cell.get_attribute("aria-label"))
    assert said is not None and cell.get_attribute("aria-pressed") == "true"
    assert 0 < len(browser.find_elements(By.CSS_SELECTOR, "#cell img")) <= int(said[0])

    search = browser.find_element(By.ID, "search")
    search.send_keys("again")
    assert browser.find_element(By.ID, "status").text.startswith("3 images")
    rows = browser.find_elements(By.CSS_SELECTOR, "#found li")
    assert len(rows) == 3 and all("again.png" in row.text for row in rows)
    selected = "return Bokeh.documents.map(d => d.get_model_by_name('map')).find(Boolean).selected.indices.length"
    assert browser.execute_script(selected) == 3
    click(browser, browser.find_element(By.ID, "clear"))
    assert browser.execute_script(selected) == 0
    of_class = browser.find_element(By.CSS_SELECTOR, "[data-class='two']")
    click(browser, of_class)
    assert browser.execute_script(selected) > 20 and of_class.get_attribute("aria-pressed") == "true"
    click(browser, of_class)

    box = browser.find_element(By.CSS_SELECTOR, ".mapbox")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", box)
    shown: list[str] = []
    for across, down in ((x, y) for x in range(-240, 241, 40) for y in range(-160, 161, 40)):
        ActionChains(browser, duration=0).move_to_element_with_offset(box, across, down).perform()
        shown = [t.text for t in browser.find_elements(By.CSS_SELECTOR, "#tip") if t.is_displayed()]
        if shown:
            break
    assert shown and ".png" in shown[0]
    assert complaints(browser) == [] and requests(browser) == set()


def test_it_is_readable_in_the_dark_and_on_a_phone(browser: Any, page: Path) -> None:
    colours = []
    for scheme in ("light", "dark"):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        phone = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        opened(browser, page.as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
        style = "const s = getComputedStyle(document.querySelector(arguments[0])); return [s.color, s.backgroundColor]"
        for place in ("body", "button", ".verdict"):
            ink, ground = browser.execute_script(style, place)
            assert contrast(ink, ground) >= 4.5, (scheme, place)
        models = "Bokeh.documents.flatMap(d => [...d._all_models.values()])"
        axis = f"return {models}.find(m => m.type == 'LinearAxis').major_label_text_color"
        assert contrast(rgb(browser.execute_script(axis)), browser.execute_script(style, "body")[1]) >= 4.5
        colours.append(browser.execute_script(style, "body"))
    assert colours[0] != colours[1]
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def rgb(colour: str) -> str:
    return "rgb(" + ", ".join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5)) + ")"


def contrast(a: str, b: str) -> float:
    """WCAG 2.1's contrast ratio of two colours as a browser computes them."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_a_report_with_pictures_is_not_replaced_by_one_without(page: Path, run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run, moved, ignore=shutil.ignore_patterns("checkpoints"))
    config = (moved / "config.yaml").read_text()
    (moved / "config.yaml").write_text(config.replace(f"{run.parents[1]}/images", f"{tmp_path}/gone"))
    with pytest.raises(ConfigError, match="has them: it is kept"):
        write_page(moved)
    assert (moved / "report.html").read_bytes() == page.read_bytes()
    (moved / "report.html").unlink()
    found = Tags(write_page(moved))
    assert "Its images cannot be shown" in " ".join(found.text) and not [a for _, a in found.found if "data-cell" in a]


def test_runs_side_by_side_are_paired_image_by_image(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    config = (run / "config.yaml").read_text()
    (other / "config.yaml").write_text(
        config.replace("name: three", "name: other").replace("weight_decay: 0.0001", "weight_decay: 0.5")
    )
    answers = read_answers(run)
    assert answers is not None
    table = pq.read_table(other / "answers.parquet")
    worse = ["two"] * 5 + answers.first[5:]  # as if the other run had called the first five images so
    table = table.set_column(table.column_names.index("linear: encoder"), "linear: encoder", pa.array(worse))
    pq.write_table(table, other / "answers.parquet")
    text, page = report([run, other], PageOptions(out=tmp_path / "both.html"))
    assert page is not None and "| optim.weight_decay | 0.0001 | 0.5 |" in text
    shown = " ".join(Tags(page).text)
    right = [np.array([a == b for a, b in zip(said, answers.truth, strict=True)]) for said in (answers.first, worse)]
    pair = paired_difference(*right)
    low, high = (100 * end for end in pair["interval"])
    assert f"{100 * pair['difference']:+.1f} points, 95 % [{low:+.1f}, {high:+.1f}]" in shown
    assert f"three − other, {len(answers.images):,} test images of both" in shown and "optim.weight_decay" in shown
    assert page.stat().st_size < 3_000_000


def fetched(address: str, host: str | None = None) -> tuple[int, str]:
    asked = urllib.request.Request(address, headers={} if host is None else {"Host": host})
    try:
        with urllib.request.urlopen(asked, timeout=20) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def test_answers_that_are_not_as_they_were_written_are_damage_and_new_numbers_are_none(
    run: Path, tmp_path: Path
) -> None:
    table, first = pq.read_table(run / "answers.parquet"), read_answers(run)
    numbers, gaps = pa.array(range(len(table))), pa.array([None, *["two"] * (len(table) - 1)])
    pq.write_table(table.append_column("later", numbers), tmp_path / "answers.parquet")
    assert read_answers(tmp_path) == first
    for name, column in (("class", gaps), ("class", numbers), ("confidence", gaps), ("linear: encoder", gaps)):
        place = table.column_names.index(name)
        pq.write_table(table.set_column(place, name, column), tmp_path / "answers.parquet")
        with pytest.raises(CheckpointError, match="is damaged"):
            read_answers(tmp_path)


def test_no_report_goes_to_the_root_of_the_file_system(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linear_eval.page.write.compare_runs", lambda folders: "")
    with pytest.raises(ConfigError, match="give --out"):
        report([run, Path("/elsewhere/runs/other")], PageOptions())


def test_a_live_view_follows_the_log_in_a_browser(browser: Any, run: Path, tmp_path: Path) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    going = tmp_path / "runs" / "going"
    going.mkdir(parents=True)
    shutil.copy(run / "config.yaml", going)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (going / "metrics.jsonl").write_text("".join(lines[:-2]))
    with served(partial(live_reply, [tmp_path / "runs"])) as address:
        assert fetched(address)[0] == 200 and 'href="going/"' in fetched(address)[1]
        assert fetched(f"{address}gone/")[0] == 404 and fetched(f"{address}../../etc/passwd")[0] == 404
        assert fetched(address, host="evil.example")[0] == 403 and fetched(address, host="[")[0] == 403
        opened(browser, f"{address}going/")
        points = "return Bokeh.documents.map(d => d.get_model_by_name('loss/0')).find(Boolean).data.y"
        steps = [json.loads(line) for line in lines if '"kind": "step"' in line]
        before = browser.execute_script(points)
        assert before == pytest.approx([line["loss"] for line in steps][: len(before)]) and len(before) < len(steps)
        (going / "metrics.jsonl").write_text("".join(lines))
        WebDriverWait(browser, 20).until(lambda b: len(b.execute_script(points)) == len(steps))
        assert browser.execute_script(points) == pytest.approx([line["loss"] for line in steps])
        state = "return document.querySelector('#state').textContent"
        (going / "result.json").write_text("{")
        WebDriverWait(browser, 20).until(lambda b: "looking again" in b.execute_script(state))
        (going / "result.json").unlink()
        WebDriverWait(browser, 20).until(lambda b: "epoch" in b.execute_script(state))
        complaints(browser)  # that a reply was 503
        assert complaints(browser) == [] and all(one.startswith(address) for one in requests(browser))


def test_all_runs_of_a_folder_the_best_first(run: Path, tmp_path: Path, script: Callable[[str], Command]) -> None:
    for name, linear in (("worst", 0.5), ("best", 0.9), ("middle", 0.7)):
        shutil.copytree(run, tmp_path / name, ignore=shutil.ignore_patterns("checkpoints", "features", "*.png"))
        result = json.loads((run / "result.json").read_text())
        result["rows"]["encoder"]["linear"]["accuracy"] = linear
        (tmp_path / name / "result.json").write_text(json.dumps(result))
    (tmp_path / "stopped").mkdir()
    shutil.copy(run / "config.yaml", tmp_path / "stopped")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "result.json").write_text("{")
    code, out, err = script("report")(tmp_path)
    assert code == 0 and err == f"{tmp_path / 'report.html'}\n"
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in out.splitlines() if line.startswith("| ")
    ]
    assert [row[:2] for row in rows if row[0] != "run"] == [
        ["best", "scored"], ["middle", "scored"], ["worst", "scored"], ["stopped", "stopped"], ["cut", "damaged"]
    ]  # fmt: skip
    assert "linear 90.0" in out and f"[{'report.html'}]" not in out
    text = (tmp_path / "report.html").read_text()
    assert text.index(">best<") < text.index(">middle<") < text.index(">worst<")


def test_runs_of_other_divisions_are_not_paired(run: Path, tmp_path: Path) -> None:
    """`test/3` is another image where the set was divided in another way, though its class may be the same."""
    other = tmp_path / "other"
    shutil.copytree(run, other, ignore=shutil.ignore_patterns("checkpoints", "features"))
    assert "test images of both" in " ".join(Tags(report([run, other], PageOptions(out=tmp_path / "a.html"))[1]).text)
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace("split_seed: 0", "split_seed: 1"))
    assert "test images of both" not in " ".join(
        Tags(report([run, other], PageOptions(out=tmp_path / "a.html"))[1]).text
    )


def test_labels_without_a_name_have_a_colour_and_a_form() -> None:
    script, _ = draw_map(np.zeros((4, 2)), [-1, 0, 1, 27])
    assert all(form in script for form in ("circle", "triangle", FORMS[27 % len(FORMS)]))
