"""The gallery of panoptic labels: what the page holds is what the store holds, and a real browser shows it."""

import base64
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from support.browser import chromium
from support.label_pages import choose, colour_at, colours, is_near, names, read_page
from support.pages import check_policy, check_strangers
from support.panoptic_runs import empty, random_panoptic, record_of, void, write_run
from support.semantic_runs import CLASSES
from support.semantic_runs import write_run as write_semantic

from pipeline.cli import main
from pipeline.results.kinds import Failed
from pipeline.results.panoptic import PanopticRecord
from pipeline.results.semantic_assignment import Assignment
from pipeline.runs.panoptic_reader import PanopticReader
from pipeline.runs.run_folder import RunFolder
from pipeline.views.gallery.gallery import write_gallery

HOSTILE = ("a</script><img src=x onerror=alert(1)>.png", "\"'&amp;<!--\u2028ü🦊.png")


def two_cars() -> PanopticRecord:
    """Two instances of class 2 that touch, on class 1; class 2 also lies beyond them."""
    labels = np.full((60, 80), 1, np.uint8)
    labels[20:50, 10:70] = 2
    ids = np.zeros((60, 80), int)
    ids[20:50, 10:30], ids[20:50, 30:50] = 1, 2
    return record_of("two.png", labels, ids)


def results() -> list[PanopticRecord | Failed]:
    records = [random_panoptic(id_, (60, 80), i) for i, id_ in enumerate(HOSTILE)]
    few, nothing = empty("few.png", (60, 80), "few_reliable", label=1), void("nothing.png", (60, 80))
    return [*records, two_cars(), few, nothing, Failed("broken.png", "truncated", "it ends too early")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return write_run(tmp_path_factory.mktemp("gallery"), results())


@pytest.fixture(scope="module")
def written(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "gallery.html"
    found = write_gallery(run, file)
    assert (found.file, found.images, found.without_photo) == (file, 6, 1)
    return file


def ids_in(block: dict[str, Any]) -> np.ndarray:
    """Ids of a block, by the description at the top of pipeline/views/gallery/panoptic.py."""
    data = np.frombuffer(zlib.decompress(base64.b64decode(block["ids"])), np.uint8)
    low, high = data.reshape(2, *block["small"]).astype(int)
    return low + 256 * high


def test_the_page_holds_what_the_store_holds(run: RunFolder, written: Path) -> None:
    index, blocks = read_page(written)
    reader = PanopticReader(run)
    assert index["things"] == reader.split.things.tolist()
    assert index["things"] == [False, False, True, True]
    assert (index["run"]["instances"], index["run"]["empty"]) == (reader.counts["instances"], reader.counts["empty"])
    for result, line, block in zip(reader, index["images"], blocks, strict=True):
        assert (line["id"], line["status"]) == (result.id, result.status)
        if isinstance(result, Failed):
            assert (line["instances"], line["empty"], block["instances"], line["reason"]) == (0, "", [], "truncated")
            continue
        assert (line["instances"], line["empty"]) == (len(result.instances), result.why_empty)
        assert (block["status"], block["size"]) == (result.status, list(result.size))
        np.testing.assert_array_equal(ids_in(block), result.instance_ids)
        assert [(one["class"], one["area"]) for one in block["instances"]] == [
            (one.class_, one.area) for one in result.instances
        ]
        sure = [one["confidence"] for one in block["instances"]]
        np.testing.assert_allclose(sure, [one.confidence for one in result.instances], atol=1e-4)


def test_large_maps_become_small_and_ids_of_16_bits_stay(tmp_path: Path) -> None:
    ids = np.arange(1, 601).reshape(20, 30).repeat(40, 0).repeat(40, 1)
    record = record_of("large.png", np.full(ids.shape, 2, np.uint8), ids)
    write_gallery(write_run(tmp_path, [record]), tmp_path / "g.html", thumbnail=120)
    _, (block,) = read_page(tmp_path / "g.html")
    assert block["small"] == [80, 120]
    np.testing.assert_array_equal(ids_in(block)[2::4, 2::4], ids[20::40, 20::40])


def test_no_name_becomes_markup(written: Path) -> None:
    text = written.read_text("utf-8")
    assert text.count("<script") == text.count("</script") == 6 + 2
    check_policy(text)


def test_a_threshold_and_an_assignment_change_what_is_shown(run: RunFolder, tmp_path: Path) -> None:
    write_gallery(run, tmp_path / "t.html", threshold=0.99)
    assert read_page(tmp_path / "t.html")[0]["things"] == [False] * 4
    assigned = Assignment(CLASSES.names, ("car", "ground"), (None, 1, 0, None))
    (tmp_path / "a.json").write_text(assigned.to_json())
    words = ["gallery", run.url, "--out", str(tmp_path / "a.html"), "--assignment", str(tmp_path / "a.json")]
    assert CliRunner().invoke(main, words).exit_code == 1
    index, blocks = read_page(tmp_path / "a.html")
    assert ([one["name"] for one in index["classes"]], index["things"]) == (["car", "ground"], [True, False])
    assert index["run"]["instances"] is None
    place = [image["id"] for image in index["images"]].index("two.png")
    assert [one["class"] for one in blocks[place]["instances"]] == [0, 0]


def test_a_threshold_is_of_panoptic_labels(tmp_path: Path) -> None:
    labels = write_semantic(tmp_path, [two_cars().semantic])
    words = ["gallery", labels.url, "--out", str(tmp_path / "g.html"), "--threshold", "0.1"]
    told = CliRunner().invoke(main, words)
    assert (told.exit_code, "panoptic labels are needed here" in told.output) == (2, True)


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_in_a_browser(written: Path) -> None:
    with chromium(1280, 1200) as browser:
        browser.open(written)
        browser.wait("document.querySelectorAll('.masks').length === 5")
        facts = browser.run("return document.getElementById('facts').textContent")
        assert "Things2 of 4 classes" in facts
        assert "No instance in1 few reliable, 1 none found" in facts
        legend = browser.run("return document.querySelector('.facet-class').textContent")
        assert f"{CLASSES.names[2]} · thing" in legend
        assert f"{CLASSES.names[1]} · stuff" in legend
        browser.click("[aria-label^='No instance because: few reliable']")
        assert names(browser) == ["few.png"]
        browser.click("#clear")
        browser.click("[aria-label^='Instances per image: 2 instances']")
        assert names(browser) == ["two.png"]
        browser.click("#clear")
        browser.click("[aria-label^='Status: classes alone']")
        assert names(browser) == ["few.png"]
        browser.click("#clear")
        choose(browser, "sort", "instances")
        assert names(browser)[-1] == "broken.png"
        assert set(names(browser)[-3:-1]) == {"few.png", "nothing.png"}
        assert browser.errors() == []
        check_strangers(browser)


@pytest.mark.slow
def test_one_image_large(written: Path) -> None:
    with chromium(1280, 1400) as browser:
        browser.open(written, "image=two.png&opacity=100")
        browser.wait("document.querySelector('.main canvas')?.width > 4")
        panel = "figure:nth-child(2) canvas"
        assert is_near(colour_at(browser, panel, 0.6, 0.25), CLASSES.colours[2]), "an instance"
        assert colour_at(browser, panel, 0.6, 0.8).endswith(",0"), "of a thing class, and in no instance: void"
        assert is_near(colour_at(browser, panel, 0.1, 0.1), CLASSES.colours[1]), "stuff"
        assert any(is_near(found, (255, 255, 255)) for found in colours(browser, panel)), "lines around instances"
        rows = browser.run("return [...document.querySelectorAll('tbody tr')].map((row) => row.textContent)")
        assert rows[2:] == ["2: person0.90600", "1: person0.40600"], "the surer first"

        # Pointing at an instance names it, lights up its row, and shows the other faintly.
        box = browser.run(
            "const b = document.querySelector('.main .picture').getBoundingClientRect(); return [b.width, b.height]"
        )
        browser.point_at(".main .picture", round((20.5 - 40) / 80 * box[0]), round((35.5 - 30) / 60 * box[1]))
        browser.wait("document.querySelector('#under').textContent")
        assert browser.run("return document.querySelector('#under').textContent") == (
            "person, instance 1, confidence 0.40"
        )
        assert browser.run("return document.querySelector('tr.hot td').textContent") == "1: person"
        strong, faint = (int(colour_at(browser, panel, 0.6, x).split(",")[3]) for x in (0.25, 0.5))
        assert strong > 200 > 60 > faint
        choose(browser, "view", "labels")
        assert browser.errors() == []
