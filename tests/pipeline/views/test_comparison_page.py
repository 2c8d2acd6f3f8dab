"""The page of several runs: what it holds is what the runs hold, and a real browser shows it."""

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.browser import Browser, chromium
from support.pages import check_policy, check_strangers
from support.sample_run import masks_of
from support.stored_run import commit, random_record
from support.tiny_method import draw_photos, tiny_method

from pipeline.engine.run import run as run_alone
from pipeline.errors import ConfigError
from pipeline.evaluation.comparison import compare_runs
from pipeline.methods.registry import manifest_of
from pipeline.results.instance_overlay import decode
from pipeline.results.kinds import Failed
from pipeline.runs.launch import Launch
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.views.comparison_page import write_comparison_page

# Ends the script element that holds it, opens a tag, closes an attribute; and is no ASCII.
HOSTILE = ("a<script><img src=x onerror=alert(1)>.png", "\"'&amp;<!--ü🦊.png")
RECIPES = ("maskcut", "cuts3d_rounds", "cuts3d")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    """Nine photos, two of them with hostile names, and a file that is none."""
    root = tmp_path_factory.mktemp("compare")
    photos = draw_photos(root / "photos", 9)
    for photo, name in zip(photos, HOSTILE, strict=False):
        photo.rename(root / "photos" / name)
    (root / "photos" / "broken.jpg").write_bytes(b"no image")
    made = {}
    for recipe in RECIPES:
        launch = Launch(str(root / "photos"), recipe=recipe, shard_size=4)
        run_alone(root / recipe, launch, method=tiny_method(recipe), manifest=manifest_of(launch))
        made[recipe] = RunFolder.open(root / recipe)
    return made


@pytest.fixture(scope="module")
def differing(runs: dict[str, RunFolder]) -> dict[str, float]:
    return compare_runs(runs, bootstrap=0).differing


@pytest.fixture(scope="module")
def written(runs: dict[str, RunFolder], differing: dict[str, float], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "compare.html"
    found = write_comparison_page(runs, file, differing)
    assert (found.file, found.images, found.without_photo, found.bytes) == (file, 10, 1, file.stat().st_size)
    return file


def read_page(file: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Index and blocks."""
    scripts = dict(
        re.findall(r'<script type="application/json" id="([^"]+)">([^<]*)</script>', file.read_text("utf-8"))
    )
    index = json.loads(scripts.pop("index"))
    assert list(scripts) == [f"image-{n}" for n in range(len(index["images"]))]
    return index, [json.loads(block) for block in scripts.values()]


def test_the_page_holds_what_the_runs_hold(
    runs: dict[str, RunFolder], differing: dict[str, float], written: Path
) -> None:
    index, blocks = read_page(written)
    assert [run["name"] for run in index["runs"]] == list(RECIPES)
    images = list(zip(*map(RunReader, runs.values()), strict=True))
    for results, line, block in zip(images, index["images"], blocks, strict=True):
        assert line["id"] == results[0].id
        assert line["differ"] == differing.get(line["id"])
        assert line["failed"] == [isinstance(result, Failed) for result in results]
        assert line["masks"] == [len(masks_of(result)) for result in results]
        bits, at = zlib.decompress(base64.b64decode(block["maps"])), 0
        height, width = block["small"]
        for result, own in zip(results, block["runs"], strict=True):
            assert own["reason"] == (result.reason if isinstance(result, Failed) else "")
            for instance, shown in zip(masks_of(result), own["instances"], strict=True):
                assert (shown["score"], shown["area"]) == (pytest.approx(instance.score, abs=1e-4), instance.area)
                n = -(-height * width // 8)
                mask = np.unpackbits(np.frombuffer(bits[at : at + n], np.uint8), count=height * width)
                at += n
                np.testing.assert_array_equal(mask.reshape(height, width), decode(instance.rle, result.size))
        assert at == len(bits)


def test_no_name_becomes_markup(written: Path) -> None:
    text = written.read_text("utf-8")
    assert text.count("onerror") == text.count("\\u003cimg src=x onerror=alert(1)>") > 0
    assert text.count("<script") == text.count("</script") == len(read_page(written)[1]) + 2
    check_policy(text)


def test_a_sample_is_spread_over_the_runs(
    runs: dict[str, RunFolder], differing: dict[str, float], tmp_path: Path
) -> None:
    assert write_comparison_page(runs, tmp_path / "c.html", differing, limit=3).images == 3
    ids = [ref.id for ref in runs["maskcut"].manifest.refs]
    assert [image["id"] for image in read_page(tmp_path / "c.html")[0]["images"]] == [ids[0], ids[3], ids[6]]
    with pytest.raises(ConfigError, match="not 31"):
        write_comparison_page(runs, tmp_path / "d.html", differing, thumbnail=31)


# --- in a browser -----------------------------------------------------------------------------------------------------


def names(browser: Browser) -> list[str]:
    """File names of the rows, in the order of the list."""
    return browser.run(
        "return [...document.querySelectorAll('.row-card')]"
        ".sort((a, b) => a.dataset.position - b.dataset.position).map((p) => p.querySelector('.name').textContent)"
    )


def ink(browser: Browser, selector: str) -> int:
    """Pixels of a canvas that are not transparent."""
    return browser.run(
        f"const canvas = document.querySelector({selector!r});"
        "const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;"
        "return data.filter((value, i) => i % 4 === 3 && value > 0).length"
    )


def choose(browser: Browser, select: str, value: str) -> None:
    browser.run(
        f"const chosen = document.getElementById({select!r}); chosen.value = {value!r};"
        "chosen.dispatchEvent(new Event('change'))"
    )


@pytest.mark.slow
def test_in_a_browser(runs: dict[str, RunFolder], differing: dict[str, float], written: Path) -> None:
    index, _ = read_page(written)
    ids = [image["id"] for image in index["images"]]
    with chromium(1400, 3000) as browser:
        browser.open(written)
        browser.wait("document.querySelectorAll('canvas.masks').length > 9")
        # the most different first, images that a run set aside last
        expected = sorted(ids, key=lambda id_: -differing.get(id_, -1))
        assert names(browser) == expected
        assert browser.run("return document.querySelectorAll('.row-card [data-run]').length") == 3 * len(ids)
        assert ink(browser, "[data-run='2'] canvas.masks") > 100
        assert "set aside" in browser.run("return [...document.querySelectorAll('.row-card')].at(-1).textContent")

        choose(browser, "sort", "name")
        assert names(browser) == ids
        choose(browser, "sort", "masks-2")
        counts = dict(zip(ids, (image["masks"][2] for image in index["images"]), strict=True))
        assert [counts[name] for name in names(browser)] == sorted(counts.values(), reverse=True)
        browser.click("#direction")
        assert [counts[name] for name in names(browser)] == sorted(counts.values())
        choose(browser, "filter", "aside")
        assert names(browser) == ["broken.jpg"]
        choose(browser, "filter", "all")
        browser.type("#query", "00")
        assert sorted(names(browser)) == [id_ for id_ in ids if "00" in id_]
        assert "q=00" in browser.run("return location.hash")
        browser.click("#clear")
        assert len(names(browser)) == len(ids)

        browser.click("[data-head='0']")  # a column less, and back
        assert browser.run("return document.querySelectorAll('.row-card [data-run=\"0\"]').length") == 0
        browser.click("#back button")
        assert browser.run("return document.querySelectorAll('.row-card [data-run=\"0\"]').length") == len(ids)

        browser.wait("document.querySelectorAll('canvas.masks').length > 9")
        many = ink(browser, "[data-position='9'] [data-run='2'] canvas.masks")
        choose(browser, "best", "best1")
        browser.wait("document.querySelector(\"[data-position='9'] [data-run='2'] canvas.masks\")")
        assert 0 < ink(browser, "[data-position='9'] [data-run='2'] canvas.masks") < many

        choose(browser, "sort", "name")
        browser.click(f"[data-number='{ids.index('004.png')}']")
        browser.wait("document.querySelector('dialog').open && document.querySelectorAll('dialog figure').length === 3")
        assert browser.run("return document.getElementById('detail-name').textContent") == "004.png"
        browser.press("ArrowRight")
        browser.wait("document.getElementById('detail-name').textContent === '005.png'")
        browser.press("Escape")
        browser.wait("!document.querySelector('dialog').open")
        browser.resize(420, 900)
        browser.wait("document.body.classList.contains('wrapped')")
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
        check_strangers(browser)


@pytest.mark.slow
def test_five_hundred_photos(tmp_path: Path) -> None:
    sizes = {file.name: (64 + i % 3, 80) for i, file in enumerate(draw_photos(tmp_path / "photos", 500))}
    manifest = manifest_of(Launch(str(tmp_path / "photos")))
    made = {}
    for recipe in ("maskcut", "cuts3d"):
        run = made[recipe] = RunFolder.create_or_open(tmp_path / recipe, {"recipe": {"name": recipe}}, manifest)
        for shard in run.manifest.shards():
            seeds = [2 * int(ref.id[:3]) + len(made) for ref in shard.refs]
            own = zip(shard.refs, seeds, strict=True)
            commit(run, shard.key, [random_record(ref.id, sizes[ref.id], seed, seed % 4) for ref, seed in own])
    differing = compare_runs(made, bootstrap=0).differing
    page = write_comparison_page(made, tmp_path / "compare.html", differing)
    assert page.images == 500
    with chromium() as browser:
        browser.open(page.file)
        browser.wait("document.querySelectorAll('.picture img').length > 3")
        first = names(browser)
        assert 1 < len(first) < 60, "only those near the window are there"
        assert first[0] == max(differing, key=lambda id_: differing[id_])
        browser.run("scrollTo(0, document.documentElement.scrollHeight)")
        browser.wait("[...document.querySelectorAll('.row-card')].some((row) => row.dataset.position === '499')")
        browser.wait("document.querySelector(\"[data-position='499'] .picture img\")")
        assert len(names(browser)) < 60
        assert browser.errors() == []
