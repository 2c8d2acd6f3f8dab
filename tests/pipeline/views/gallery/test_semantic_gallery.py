"""The gallery of semantic labels: what the page holds is what the store holds, and a real browser shows it."""

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.browser import Browser, chromium
from support.label_pages import choose, colours, is_near, names, read_page
from support.pages import check_policy, check_strangers
from support.semantic_runs import CLASSES, random_record, write_run

from pipeline.results.kinds import Failed
from pipeline.results.semantic import NONE, Classes, SemanticRecord
from pipeline.results.semantic_assignment import Assignment
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.views.gallery.gallery import write_gallery

HOSTILE = ("a</script><img src=x onerror=alert(1)>.png", "\"'&amp;<!--\u2028ü🦊.png", "__proto__.png")


def results() -> list[SemanticRecord | Failed]:
    """Hostile names, an image all of one class, one without a class, one that was set aside."""
    records = [random_record(id_, (60, 80), i) for i, id_ in enumerate(HOSTILE)]
    one = SemanticRecord.of("one.png", np.full((80, 60), 2, np.uint8), np.full((8, 8), 0.95, np.float32), CLASSES)
    none = SemanticRecord.of("none.png", np.full((60, 80), NONE, np.uint8), np.zeros((8, 8), np.float32), CLASSES)
    wide = random_record("wide.png", (40, 400), 5)
    return [*records, one, none, wide, Failed("broken.png", "truncated", "it ends too early")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return write_run(tmp_path_factory.mktemp("gallery"), results())


@pytest.fixture(scope="module")
def written(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "gallery.html"
    found = write_gallery(run, file)
    assert (found.file, found.images, found.without_photo) == (file, 7, 1)
    return file


def unpacked(block: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Labels and cells of a block, by the description at the top of pipeline/views/gallery/semantic.py."""
    data = np.frombuffer(zlib.decompress(base64.b64decode(block["maps"])), np.uint8)
    pixels = block["small"][0] * block["small"][1]
    labels = np.bitwise_xor.accumulate(data[:pixels].reshape(block["small"]), axis=0)
    return labels, np.cumsum(data[pixels:].reshape(block["cells"]), axis=0, dtype=np.uint8)


def test_the_page_holds_what_the_store_holds(run: RunFolder, written: Path) -> None:
    index, blocks = read_page(written)
    stored = list(RunReader(run))
    assert [image["id"] for image in index["images"]] == [result.id for result in stored]
    assert set(HOSTILE) <= {result.id for result in stored}
    assert index["classes"] == CLASSES.to_json()
    records = [result for result in stored if isinstance(result, SemanticRecord)]
    assert index["run"]["pixels"] == sum(sum(record.pixels) for record in records)
    assert index["run"]["unlabelled"] == sum(record.unlabelled for record in records)
    assert (index["run"]["occurring"], index["run"]["quarantined"]) == (4, 1)
    for result, line, block in zip(stored, index["images"], blocks, strict=True):
        assert (line["status"], tuple(block["size"])) == (result.status, result.size)
        if isinstance(result, Failed):
            assert (line["reason"], block["detail"], line["confidence"]) == (result.reason, result.detail, None)
            continue
        assert line["confidence"] == pytest.approx(result.mean_confidence, abs=1e-4)
        shares = np.zeros(256)
        shares[: len(CLASSES)], shares[NONE] = result.shares, result.unlabelled / result.n_pixels
        found = np.zeros(256)
        for c, share in line["shares"].items():
            found[int(c)] = share
        np.testing.assert_allclose(found, shares, rtol=1e-5)
        labels, cells = unpacked(block)
        expected = Image.fromarray(result.labels).resize(
            (block["small"][1], block["small"][0]), Image.Resampling.NEAREST
        )
        np.testing.assert_array_equal(labels, expected)
        if result.size == (60, 80):  # smaller than a thumbnail
            np.testing.assert_array_equal(labels, result.labels)
            np.testing.assert_array_equal(cells, result.cells)
        assert tuple(block["cells"]) == cells.shape


def test_large_maps_become_small(tmp_path: Path) -> None:
    record = random_record("large.png", (900, 1200), 0)
    write_gallery(write_run(tmp_path, [record]), tmp_path / "g.html", thumbnail=64)
    _, (block,) = read_page(tmp_path / "g.html")
    assert (block["small"], block["cells"]) == ([48, 64], [12, 16])
    labels, cells = unpacked(block)
    expected = Image.fromarray(record.labels).resize((64, 48), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(labels, expected)
    assert abs(cells.mean() - record.cells.mean()) < 3


def test_no_name_becomes_markup(written: Path) -> None:
    text = written.read_text("utf-8")
    assert text.count("<script") == text.count("</script") == 7 + 2
    assert "onerror=alert(1)>" not in re.sub(r"\\u003cimg src=x onerror=alert\(1\)>", "", text)
    check_policy(text)


def test_a_gallery_with_the_classes_of_an_assignment(run: RunFolder, tmp_path: Path) -> None:
    assignment = Assignment(CLASSES.names, ("nature", "people"), (0, 0, 1, None))
    write_gallery(run, tmp_path / "g.html", assignment=assignment)
    index, blocks = read_page(tmp_path / "g.html")
    assert [one["name"] for one in index["classes"]] == ["nature", "people"]
    assert index["run"]["occurring"] == 2
    places = [image["id"] for image in index["images"]]
    labels, _ = unpacked(blocks[places.index("one.png")])
    assert set(np.unique(labels)) == {1}, "all of it is class 2, which is people"


# --- in a browser -----------------------------------------------------------------------------------------------------


def card_of(browser: Browser, name: str) -> str:
    return f".place[data-position='{names(browser).index(name)}']"


@pytest.mark.slow
def test_in_a_browser(run: RunFolder, written: Path) -> None:
    records = {r.id: r for r in RunReader(run) if isinstance(r, SemanticRecord)}
    with chromium(1280, 2400) as browser:
        browser.open(written)
        browser.wait("document.querySelectorAll('.masks').length === 6")
        assert names(browser) == [result.id for result in RunReader(run)], "names are shown as they are"
        assert browser.run("return document.querySelectorAll('img[src=x], [onerror]').length") == 0
        facts = browser.run("return document.querySelector('#facts').textContent")
        assert "4 of 4 occur" in facts

        # The legend: each class, its colour, in how many images.
        legend = browser.run(
            "return [...document.querySelectorAll('.facet-class .row')].map((row) => ["
            "row.firstChild.textContent, getComputedStyle(row.querySelector('.dot')).backgroundColor, "
            "row.lastChild.textContent])"
        )
        images = {c: sum(record.pixels[c] > 0 for record in records.values()) for c in range(len(CLASSES))}
        expected = {n: (f"rgb{CLASSES.colours[c]}", str(images[c])) for c, n in enumerate(CLASSES.names)}
        assert {name: (colour, count) for name, colour, count in legend} == expected

        # Opacity and what is shown.
        canvas = f"{card_of(browser, 'one.png')} canvas"
        person = CLASSES.colours[2]
        (found,) = colours(browser, canvas)
        assert is_near(found, person)
        assert int(found.split(",")[3]) == 153
        choose(browser, "opacity", "100")
        browser.wait(f"document.querySelector({json.dumps(canvas)})")
        assert set(colours(browser, canvas)) == {f"{','.join(map(str, person))},255"}
        assert "opacity=100" in browser.run("return location.hash")
        choose(browser, "view", "confidence")
        browser.wait(f"document.querySelector({json.dumps(canvas)})")
        (found,) = colours(browser, canvas)
        assert is_near(found, (223, 225, 49)), "confidence 0.95, near the bright end"
        choose(browser, "view", "photo")
        browser.wait("document.querySelectorAll('.card img').length === 6")
        assert browser.run("return document.querySelectorAll('.masks').length") == 0
        choose(browser, "view", "labels")

        # Filter by class: of alternatives; the others fade.
        browser.click("[aria-label^='Classes (of how many images): sky,']")
        assert set(names(browser)) == {id_ for id_, record in records.items() if record.pixels[0]}
        browser.wait("document.querySelector('.masks')")
        alphas = {int(key.split(",")[3]) for key in colours(browser, f"{card_of(browser, HOSTILE[2])} canvas")}
        assert {31, 255} <= alphas, "sky in full, the others faintly"
        browser.click("[aria-label^='Classes (of how many images): person,']")
        either = {id_ for id_, record in records.items() if record.pixels[0] or record.pixels[2]}
        assert set(names(browser)) == either
        assert "class=0%2C2" in browser.run("return location.hash")
        browser.click("#clear")
        browser.click("[aria-label^='Status: no classes']")
        assert names(browser) == ["none.png"]
        browser.click("#clear")
        browser.click("[aria-label^='Classes per image: 1 class']")
        assert names(browser) == ["one.png"]
        browser.click("#clear")
        browser.click("[aria-label^='Mean confidence: 0.9 to 1.0']")
        assert names(browser) == ["one.png"]
        browser.click("#clear")

        # Order: by the share of a class, by confidence; what was set aside is last whichever way.
        for sort, value in (
            ("share-2", lambda record: record.shares[2]),
            ("confidence", lambda record: record.mean_confidence),
            ("unlabelled", lambda record: record.unlabelled / record.n_pixels),
        ):
            choose(browser, "sort", sort)
            order = names(browser)
            assert order[-1] == "broken.png"
            values = [value(records[name]) for name in order[:-1]]
            assert values == sorted(values, reverse=sort != "confidence")
            browser.click("#direction")
            assert names(browser)[-1] == "broken.png"
        assert "sort=unlabelled-up" in browser.run("return location.hash")
        assert browser.errors() == []


@pytest.mark.slow
def test_one_image_large(run: RunFolder, written: Path) -> None:
    records = {r.id: r for r in RunReader(run) if isinstance(r, SemanticRecord)}
    record = records[HOSTILE[0]]
    with chromium(1280, 1400) as browser:
        browser.open(written, "sort=share-0-down&opacity=100&view=labels")
        browser.wait("document.querySelector('.masks')")
        assert browser.run(
            "return [document.getElementById('sort').value, document.getElementById('opacity').value]"
        ) == [
            "share-0",
            "100",
        ]
        browser.click(f"{card_of(browser, HOSTILE[0])} .card")
        browser.wait("document.querySelector('.main canvas')?.width > 4")
        rows = browser.run("return [...document.querySelectorAll('tbody tr')].map((row) => row.textContent)")
        pixels = {**{n: record.pixels[c] for c, n in enumerate(CLASSES.names)}, "no class": record.unlabelled}
        expected = sorted(((count, name) for name, count in pixels.items() if count), reverse=True)
        assert rows == [f"{n}{100 * c / record.n_pixels:.1f} %{c:,}" for c, n in expected]
        labels = colours(browser, "figure:nth-child(2) canvas")
        for c in range(len(CLASSES)):
            if record.pixels[c] > 200:
                assert any(is_near(found, CLASSES.colours[c]) for found in labels)

        # Pointing at the picture names the class there and lights up its row.
        rows_, columns = np.nonzero(record.labels == 3)
        middle = len(rows_) // 2
        box = browser.run(
            "const b = document.querySelector('.main .picture').getBoundingClientRect(); return [b.width, b.height]"
        )
        x = round((columns[middle] + 0.5 - 40) / 80 * box[0])
        y = round((rows_[middle] + 0.5 - 30) / 60 * box[1])
        browser.point_at(".main .picture", x, y)
        browser.wait("document.querySelector('#under').textContent")
        assert browser.run("return document.querySelector('#under').textContent") == CLASSES.names[3]
        hot = browser.run("return document.querySelector('tr.hot td').textContent")
        assert hot == CLASSES.names[3]
        browser.press("Escape")
        browser.wait("!document.querySelector('dialog').open")

        # An address leads to an image, on a phone in the dark, too; a wrong one does no harm.
        browser.resize(390, 844)
        browser.prefer("dark")
        browser.open(written.with_name("gallery.html"), "image=broken.png&view=nothing&sort=toString-up&opacity=much")
        browser.wait("document.querySelector('dialog').open")
        assert "it ends too early" in browser.run("return document.querySelector('dialog').textContent")
        assert browser.run("return document.documentElement.scrollWidth") == 390
        assert browser.run("return document.getElementById('view').value") == "labels"
        check_strangers(browser)


@pytest.mark.slow
def test_255_classes_in_a_browser(tmp_path: Path) -> None:
    classes = Classes.clusters(255)
    records = [random_record(f"{i}.png", (60, 80), i, classes) for i in range(4)]
    write_gallery(write_run(tmp_path, records, classes), tmp_path / "g.html")
    with chromium(1280, 900) as browser:
        browser.open(tmp_path / "g.html")
        browser.wait("document.querySelectorAll('.masks').length === 4")
        assert browser.run("return document.querySelector('.facet-class').offsetHeight") < 300
        assert browser.errors() == []
