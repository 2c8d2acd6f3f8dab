"""The gallery: what the page holds is what the store holds, and a real browser shows it.

n images · Gh, Gw patch grid
"""

import base64
import io
import json
import re
import sys
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from support.browser import Browser, chromium
from support.pages import check_policy, check_strangers
from support.sample_run import drops_of, masks_of
from support.tiny_method import draw_photos, in_place_of_models, tiny_method

from pipeline.cli import main
from pipeline.engine import run as runner
from pipeline.errors import ConfigError, ImageError, StoreError
from pipeline.images.manifest import ImageRef, Manifest
from pipeline.methods.cuts.stage_files import KeptOutputs, write_outputs
from pipeline.results.instance_file import write_shard
from pipeline.results.instance_overlay import decode
from pipeline.results.instances import ImageRecord, counts_of, mean_confidence
from pipeline.results.kinds import Failed, quarantine_of
from pipeline.runs.launch import Launch
from pipeline.runs.ledger import Outcome
from pipeline.runs.provenance import new_attempt
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.views.gallery import pages
from pipeline.views.gallery.blocks import LEVELS, image_block
from pipeline.views.gallery.gallery import write_gallery
from stages.score import PARTS

# Ends the script element that holds it, opens a tag, closes an attribute; and is no ASCII. The folder is "a<".
HOSTILE = ("a</script><img src=x onerror=alert(1)>.png", "\"'&amp;<!--\u2028ü🦊.png", "__proto__.png")


@dataclass
class Page:
    """A page as the browser would read it."""

    text: str
    index: dict[str, Any]
    blocks: list[dict[str, Any]]

    def of(self, id_: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Line of the index and block of an image."""
        number = next(n for n, image in enumerate(self.index["images"]) if image["id"] == id_)
        return self.index["images"][number], self.blocks[number]


def read_page(file: Path) -> Page:
    text = file.read_text("utf-8")
    scripts = dict(re.findall(r'<script type="application/json" id="([^"]+)">([^<]*)</script>', text))
    index = json.loads(scripts.pop("index"))
    assert list(scripts) == [f"image-{n}" for n in range(len(index["images"]))]
    return Page(text, index, [json.loads(block) for block in scripts.values()])


def unpack_maps(block: dict[str, Any], grid: tuple[int, int]) -> dict[str, Any]:
    """The maps of a block, by the description at the top of pipeline/views/gallery/blocks.py."""
    data, at = np.frombuffer(zlib.decompress(base64.b64decode(block["maps"])), np.uint8), 0

    def take(n: int) -> np.ndarray:
        nonlocal at
        at += n
        return data[at - n : at]

    def bits(shape: tuple[int, int]) -> np.ndarray:
        n = shape[0] * shape[1]
        return np.unpackbits(take(-(-n // 8)), count=n).reshape(shape).astype(bool)

    def levels() -> np.ndarray:
        return np.cumsum(take(grid[0] * grid[1]).reshape(grid), axis=0, dtype=np.uint8)

    depth = levels() if block["has_depth"] else None
    proposals = [(levels(), bits(grid), bits(grid), bits(grid)) for _ in block["proposals"] or ()]
    confidences = [take(grid[0] * grid[1]).reshape(grid) for _ in block["instances"]]
    masks = [bits(tuple(block["small"])) for _ in block["instances"]]
    assert at == len(data)
    return {"depth": depth, "proposals": proposals, "confidences": confidences, "masks": masks}


ALL_PIECES = "local_cut.pieces=all"
DROPS = "filters.min_area=0.12"  # so that some proposals are dropped
RUNS = {
    "rounds": ("cuts3d_rounds", [DROPS]),
    "pieces": ("cuts3d_rounds", [DROPS, ALL_PIECES]),
    "tree": ("cuts3d", []),
    "merge": ("promerge", []),
}
ONLY_ROUNDS = pytest.mark.parametrize("run", ["rounds"], indirect=True)


@pytest.fixture(scope="module", params=list(RUNS))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Photos of two discs, three of them with hostile names, and a file that is no photo; proposals are kept."""
    recipe, overrides = RUNS[request.param]
    root = tmp_path_factory.mktemp("gallery")
    photos = draw_photos(root / "photos", 9)
    for photo, name in zip(photos, HOSTILE, strict=False):
        (root / "photos" / name).parent.mkdir(exist_ok=True)
        photo.rename(root / "photos" / name)
    (root / "photos" / "broken.jpg").write_bytes(b"no image")
    with pytest.MonkeyPatch.context() as patch:
        in_place_of_models(patch, lambda launch: tiny_method(launch.recipe, overrides))
        launch = Launch(images=str(root / "photos"), recipe=recipe, shard_size=4)
        runner.run(root / "run", launch, until="confidence")
        runner.run(root / "run")
    return RunFolder.open(root / "run")


@pytest.fixture(scope="module")
def written(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "gallery.html"
    found = write_gallery(run, file)
    assert (found.file, found.images, found.without_photo) == (file, 10, 1)
    assert found.bytes == file.stat().st_size
    return file


@pytest.mark.slow
def test_the_page_holds_what_the_store_holds(run: RunFolder, written: Path) -> None:
    page = read_page(written)
    records = list(RunReader(run))
    assert [image["id"] for image in page.index["images"]] == [record.id for record in records]
    assert set(HOSTILE) <= {record.id for record in records}
    grid = tuple(page.index["grid"])
    for record, line, block in zip(records, page.index["images"], page.blocks, strict=True):
        assert (line["status"], line["drops"]) == (record.status, drops_of(record))
        assert line["reason"] == (record.reason if isinstance(record, Failed) else "")
        assert line["scores"] == [pytest.approx(instance.score, abs=1e-6) for instance in masks_of(record)]
        means = [np.mean([getattr(i.parts, part) for i in masks_of(record)] or [0]) for part in page.index["parts"]]
        assert line["parts"] == pytest.approx(means, abs=1e-4)
        assert tuple(block["size"]) == record.size
        maps = unpack_maps(block, grid)
        depth = None if isinstance(record, Failed) else record.depth
        if depth is None:
            assert maps["depth"] is None
        else:
            np.testing.assert_allclose(maps["depth"] / LEVELS, record.depth, atol=0.51 / LEVELS)
        for instance, shown, confidence, mask in zip(
            masks_of(record), block["instances"], maps["confidences"], maps["masks"], strict=True
        ):
            assert (shown["area"], shown["round"]) == (instance.area, instance.round)
            assert shown["parts"] == pytest.approx(asdict(instance.parts), abs=1e-4)
            assert shown["crf_iou"] == pytest.approx(instance.crf_iou, abs=1e-4)
            assert shown["confidence"] == pytest.approx(mean_confidence(instance.confidence[None])[0], abs=1e-4)
            np.testing.assert_array_equal(confidence, instance.confidence)
            np.testing.assert_array_equal(mask, decode(instance.rle, record.size))  # photos smaller than thumbnails
    assert any(masks_of(record) for record in records)


@pytest.mark.slow
def test_proposals_are_those_that_were_kept(run: RunFolder, written: Path) -> None:
    page = read_page(written)
    records = {record.id: record for record in RunReader(run)}
    ledger = run.stage_ledger("confidence")
    dropped = 0
    for shard in run.manifest.shards():
        kept = KeptOutputs.open("confidence", ledger.contents(ledger.read(shard.key).shard))
        for position, ref in enumerate(shard.refs):
            _, block = page.of(ref.id)
            if not kept.done[position]:
                assert block["proposals"] is None
                continue
            (cut,) = kept.cut_images([position])
            maps = unpack_maps(block, tuple(page.index["grid"]))
            assert block["stop"] == cut.found.stop
            # without CRF, every proposal that was kept became an instance
            instances = iter(range(len(masks_of(records[ref.id]))))
            for proposal, shown, (eigenvector, was_cut, group, mask) in zip(
                cut.found.proposals, block["proposals"], maps["proposals"], strict=True
            ):
                for name in ("round", "level", "source", "sink"):
                    assert shown[name] == getattr(proposal, name)
                assert shown["tau"] == (round(proposal.tau, 5) if np.isfinite(proposal.tau) else None)
                np.testing.assert_array_equal(was_cut, proposal.was_cut)
                np.testing.assert_array_equal(group, proposal.group)
                np.testing.assert_array_equal(mask, proposal.mask)
                assert not eigenvector[~was_cut].any()
                spread = proposal.eigenvector[was_cut] - proposal.eigenvector[was_cut].min()
                np.testing.assert_allclose(eigenvector[was_cut] / LEVELS, spread / spread.max(), atol=0.51 / LEVELS)
                if proposal.dropped:
                    assert (shown["dropped"], shown["instance"]) == (proposal.dropped, None)
                    dropped += 1
                else:
                    assert (shown["dropped"], shown["instance"]) == (None, next(instances))
            assert next(instances, None) is None
    assert dropped > 0 or page.index["run"]["searched"] != "rounds"


@ONLY_ROUNDS
@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_proposal_that_the_crf_dropped_is_told_from_the_others(run: RunFolder, lost: int) -> None:
    """Also among pieces of one round, of which the record holds those that are left."""
    ledger = run.stage_ledger("confidence")
    kept = KeptOutputs.open("confidence", ledger.contents(ledger.read("00001").shard))
    (cut,) = kept.cut_images([int(np.flatnonzero(kept.done)[0])])
    proposals = [replace(cut.found.proposals[0], round=k // 2, dropped=None) for k in range(3)]
    record = next(record for record in RunReader(run) if masks_of(record))
    left = [k for k in range(3) if k != lost]
    instances = tuple(replace(masks_of(record)[0], round=proposals[k].round, proposal=k) for k in left)
    record = replace(record, instances=instances, drops={"crf_disagrees": 1})
    cut = replace(cut, found=replace(cut.found, proposals=tuple(proposals)))
    shown = image_block(record, cut, ImageError("missing", "gone"), 320)["proposals"]
    fates = [(proposal["instance"], proposal["dropped"]) for proposal in shown]
    expected = [(0, None), (1, None)]
    expected.insert(lost, (None, "crf_disagrees"))
    assert fates == expected


def test_photos_are_small_and_upright(run: RunFolder, tmp_path: Path) -> None:
    write_gallery(run, tmp_path, thumbnail=40)
    page = read_page(tmp_path / "gallery.html")
    refs = {ref.id: ref for ref in run.manifest.refs}
    for line, block in zip(page.index["images"], page.blocks, strict=True):
        if line["status"] == "quarantined":
            assert block["photo"] == ""
            assert block["problem"]["reason"] == line["reason"] == "not_an_image"
            continue
        with Image.open(io.BytesIO(base64.b64decode(block["photo"]))) as photo:
            assert photo.format == "WEBP"
            assert (photo.height, photo.width) == tuple(block["small"])
            assert max(photo.size) == 40
            original = np.asarray(Image.open(refs[line["id"]].uri).resize(photo.size)).astype(float)
            assert np.abs(np.asarray(photo.convert("RGB")) - original).mean() < 12
        for mask in unpack_maps(block, tuple(page.index["grid"]))["masks"]:
            assert mask.any()


def test_no_name_becomes_markup(written: Path) -> None:
    text = written.read_text("utf-8")
    assert text.count("onerror") == text.count("\\u003cimg src=x onerror=alert(1)>") > 0
    assert text.count("<script") == text.count("</script") == len(read_page(written).blocks) + 2
    check_policy(text)


def test_a_sample_is_spread_over_the_run(run: RunFolder, tmp_path: Path) -> None:
    assert write_gallery(run, tmp_path / "g.html", limit=3).images == 3
    page = read_page(tmp_path / "g.html")
    ids = [ref.id for ref in run.manifest.refs]
    assert [image["id"] for image in page.index["images"]] == [ids[0], ids[3], ids[6]]
    assert page.index["run"]["finished"] == 10
    for image, block in zip(page.index["images"], page.blocks, strict=True):
        assert len(image["scores"]) == len(block["instances"])


def make_run(root: Path, refs: list[ImageRef], records: list[ImageRecord], grid: tuple[int, int]) -> RunFolder:
    """A finished run with these records."""
    config = tiny_method().config()
    run = RunFolder.create_or_open(root / "run", config, Manifest(refs, 256))
    by_id = {record.id: record for record in records}
    for shard in run.manifest.shards():
        of_shard = [by_id[ref.id] for ref in shard.refs]
        data = write_shard(of_shard, grid, {})
        run.ledger.commit(shard.key, new_attempt(), Outcome(data, counts_of(of_shard), quarantine_of(of_shard)))
    return run


def test_photos_that_are_gone_or_changed_leave_their_masks(run: RunFolder, tmp_path: Path) -> None:
    records = [record for record in RunReader(run) if masks_of(record)][:3]
    refs = {ref.id: ref for ref in run.manifest.refs}
    draw_photos(tmp_path / "photos", 1)
    Image.new("RGB", (33, 44)).save(tmp_path / "photos" / "other.png")
    moved = [
        refs[records[0].id],
        replace(refs[records[1].id], uri=str(tmp_path / "photos" / "gone.png")),
        replace(refs[records[2].id], uri=str(tmp_path / "photos" / "other.png")),
    ]
    copy = make_run(tmp_path, moved, records, (8, 8))
    assert write_gallery(copy, tmp_path / "g.html").without_photo == 2
    page = read_page(tmp_path / "g.html")
    assert page.index["kept"] is False
    reasons = [(page.of(record.id)[1]["problem"] or {}).get("reason") for record in records]
    assert reasons == [None, "missing", "changed"]
    for record in records:
        _, block = page.of(record.id)
        assert block["proposals"] is None
        masks = unpack_maps(block, (8, 8))["masks"]
        assert [int(mask.sum()) for mask in masks] == [instance.area for instance in masks_of(record)]


def test_nothing_to_show_is_said(tmp_path: Path) -> None:
    empty = RunFolder.create_or_open(tmp_path / "run", {"recipe": {}}, Manifest([ImageRef("a", "/a.jpg")], 1))
    with pytest.raises(StoreError, match=r"no image of .* is finished: `cuts3d run --out"):
        write_gallery(empty, tmp_path / "g.html")
    assert not (tmp_path / "g.html").exists()


def test_the_command(run: RunFolder, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["gallery", run.url, "--out", str(tmp_path / "new"), "--limit", "9"])
    assert result.exit_code == 1, "one image of the run is set aside"
    file = tmp_path / "new" / "gallery.html"
    assert result.stdout == f"9 images, {file.stat().st_size / 1e6:.1f} MB in {file}\n"
    refused = CliRunner().invoke(main, ["gallery", str(tmp_path), "--out", str(tmp_path / "g.html")])
    assert refused.exit_code == 2
    assert "is not a run" in refused.output


@pytest.mark.parametrize(("option", "value"), [("limit", 0), ("thumbnail", 31), ("thumbnail", 5000)])
def test_sizes_out_of_range_are_refused(run: RunFolder, tmp_path: Path, option: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"not {value}"):
        write_gallery(run, tmp_path / "g.html", **{option: value})


def test_nothing_half_written_stays_behind(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages.shutil, "copyfileobj", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_gallery(run, tmp_path / "g.html")
    assert list(tmp_path.iterdir()) == []


# --- in a browser -----------------------------------------------------------------------------------------------------


def names(browser: Browser) -> list[str]:
    """File names on the cards, in the order of the list."""
    return browser.run(
        "return [...document.querySelectorAll('.place')]"
        ".sort((a, b) => a.dataset.position - b.dataset.position).map((p) => p.querySelector('.name').textContent)"
    )


def ink(browser: Browser, selector: str) -> int:
    """Pixels of a canvas that are not transparent."""
    return browser.run(
        "const c = document.querySelector(arguments[0]);"
        "const data = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "let n = 0; for (let i = 3; i < data.length; i += 4) n += data[i] > 0; return n",
        selector,
    )


@ONLY_ROUNDS
@pytest.mark.slow
def test_in_a_browser(run: RunFolder, written: Path, tmp_path: Path) -> None:
    records = {record.id: record for record in RunReader(run)}
    images = read_page(written).index["images"]
    with chromium(1280, 2800) as browser:  # all ten cards in view
        browser.open(written)
        browser.wait("document.querySelector('.masks')")
        assert names(browser) == [record.id for record in records.values()], "names are shown as they are"
        assert browser.run("return document.querySelectorAll('img[src=x], [onerror]').length") == 0
        assert browser.run("return document.querySelector('#facts').textContent.includes('cuts3d')")
        browser.wait("[...document.querySelectorAll('.card img')].filter((i) => i.naturalWidth === 80).length === 9")

        # Filters: by name, by status, by drops; what fits is shown and counted.
        browser.type("#query", "BROKEN")
        assert names(browser) == ["broken.jpg"]
        assert "set aside: not an image" in browser.run("return document.querySelector('.card').textContent")
        assert browser.run("return document.querySelector('#shown').textContent") == "1 of 10 images"
        browser.click("#clear")
        browser.click("[aria-label^='Status: set aside']")
        assert names(browser) == ["broken.jpg"]
        browser.click("[aria-label^='Status: with masks']")
        assert set(names(browser)) == {i["id"] for i in images if i["status"] in ("ok", "quarantined")}
        browser.click("#clear")
        reason = next(reason for image in images for reason in image["drops"])
        browser.click(f"[aria-label^='Proposals dropped because: {reason_words(browser, reason)}']")
        assert set(names(browser)) == {image["id"] for image in images if image["drops"].get(reason)}
        browser.click("#clear")
        browser.click("[aria-label^='Masks per image: 1 mask']")
        assert set(names(browser)) == {image["id"] for image in images if len(image["scores"]) == 1}
        browser.click("#clear")

        bins = browser.run("return [...document.querySelectorAll('[aria-label^=\"Score\"]')].map((b) => b.ariaLabel)")
        edges = np.array([[float(edge) for edge in re.findall(r"\d\.\d\d", label)] for label in bins])
        scores = np.array([score for image in images for score in image["scores"]])
        assert scores.min() >= edges[0, 0]
        assert scores.max() <= edges[-1, 1]
        inside = [
            label for label, (low, high) in zip(bins, edges, strict=True) if ((low <= scores) & (scores < high)).any()
        ]
        browser.click(f"[aria-label='{inside[0]}']")
        low, high = edges[bins.index(inside[0])]
        assert set(names(browser)) == {i["id"] for i in images if any(low <= s < high for s in i["scores"])}
        browser.click("#clear")

        # Order: by best score, images without masks last whichever way.
        browser.run("const s = document.getElementById('sort'); s.value = 'best'; s.dispatchEvent(new Event('change'))")
        scored = [
            max(masks_of(records[name]), key=lambda i: i.score).score
            for name in names(browser)[: len(images) - 1]
            if masks_of(records[name])
        ]
        assert scored == pytest.approx(sorted(scored, reverse=True), abs=1e-6)
        without = sum(not image["scores"] for image in images)
        assert all(not masks_of(records[name]) for name in names(browser)[len(images) - without :])
        browser.click("#direction")
        assert all(not masks_of(records[name]) for name in names(browser)[len(images) - without :])
        assert "sort=best-up" in browser.run("return location.hash")

        # One image large: by keyboard there and back, arrows go on, pointing lights up.
        order = names(browser)
        browser.run("document.querySelector('.card').focus()")
        browser.press("ArrowRight")
        assert browser.run("return document.activeElement.querySelector('.name').textContent") == order[1]
        browser.click(".place[data-position='0'] .card")
        browser.wait("document.querySelector('#detail-name')")
        assert browser.run("return document.querySelector('#detail-name').textContent") == order[0]
        record = records[order[0]]
        assert browser.run("return document.querySelectorAll('tbody tr').length") == len(masks_of(record)) > 0
        assert f"{masks_of(record)[0].score:.3f}" in browser.run("return document.querySelector('tbody').textContent")
        assert browser.run("return document.querySelectorAll('.proposal').length") >= len(masks_of(record))
        assert "Rounds" in titles(browser)
        browser.wait("document.querySelector('.main canvas').width > 4")
        assert ink(browser, ".main canvas") > 0
        browser.point_at("tbody tr:first-child")
        browser.wait("document.querySelector('tbody tr.hot')")
        browser.press("ArrowRight")
        browser.wait(f"document.querySelector('#detail-name').textContent === {json.dumps(order[1])}")
        browser.press("Escape")
        browser.wait("!document.querySelector('dialog').open")
        browser.wait(f"document.activeElement.querySelector('.name')?.textContent === {json.dumps(order[1])}")
        browser.click("#masks")
        assert browser.run("return document.querySelectorAll('.masks').length") == 0

        # An address leads to an image, on a phone in the dark, too; nothing is wider than the screen.
        browser.resize(390, 844)
        browser.prefer("dark")
        browser.open(written.with_name("gallery.html"), "image=broken.jpg")
        browser.wait("document.querySelector('dialog').open")
        assert "not an image" in browser.run("return document.querySelector('dialog').textContent")
        assert browser.run("return document.documentElement.scrollWidth") == 390
        check_strangers(browser)


@pytest.mark.parametrize("run", ["tree"], indirect=True)
@pytest.mark.slow
def test_a_tree_in_a_browser(run: RunFolder, written: Path) -> None:
    records = {record.id: record for record in RunReader(run)}
    with chromium(1280, 2800) as browser:
        # Order by a part of the score.
        browser.open(written, "sort=nearness-down")
        browser.wait("document.querySelector('.masks')")
        means = [[i.parts.nearness for i in masks_of(records[name])] for name in names(browser)]
        means = [np.mean(values) for values in means if values]
        assert means == pytest.approx(sorted(means, reverse=True), abs=1e-4)

        browser.click(".place[data-position='0'] .card")
        browser.wait("document.querySelector('.main canvas').width > 4")
        record = records[names(browser)[0]]
        table = browser.run("return [...document.querySelectorAll('th')].map((h) => h.textContent)")
        assert table[1:8] == ["Score", *(part.capitalize() for part in PARTS)]
        row = browser.run("return [...document.querySelectorAll('tbody tr:first-child td')].map((d) => d.textContent)")
        first = masks_of(record)[0]
        assert row[1:8] == [f"{first.score:.3f}", *(f"{value:.2f}" for value in asdict(first.parts).values())]
        assert "Best of the tree of cuts" in titles(browser)
        found = browser.run("return [...document.querySelectorAll('.proposal')].map((p) => p.textContent)")
        assert len(found) == len(masks_of(record))
        for k, text in enumerate(found):
            assert re.match(
                rf"Mask {k + 1}instance {k + 1}\d+ patch.*(the part as it is|piece at τ).*after \d cut", text
            )
        assert browser.errors() == []


@pytest.mark.parametrize("run", ["merge"], indirect=True)
@pytest.mark.slow
def test_merged_masks_in_a_browser(run: RunFolder, written: Path) -> None:
    records = {record.id: record for record in RunReader(run)}
    with chromium(1280, 2800) as browser:
        browser.open(written, "sort=contrast-down")
        browser.wait("document.querySelector('.masks')")
        browser.click(".place[data-position='0'] .card")
        browser.wait("document.querySelector('.main canvas').width > 4")
        record = records[names(browser)[0]]
        assert "Merged masks" in titles(browser)
        found = browser.run("return [...document.querySelectorAll('.proposal')].map((p) => p.textContent)")
        assert len(found) == len(masks_of(record)) > 0
        for k, text in enumerate(found):
            assert re.match(rf"Mask {k + 1}instance {k + 1}\d+ patch", text)
            assert "λ" not in text
        assert browser.errors() == []


def titles(browser: Browser) -> list[str]:
    """Headings in the dialog."""
    return browser.run("return [...document.querySelectorAll('dialog h3')].map((h) => h.textContent)")


def reason_words(browser: Browser, reason: str) -> str:
    return browser.run("return REASONS[arguments[0]] ?? arguments[0]", reason)


def many_images(root: Path, run: RunFolder, n: int) -> RunFolder:
    """A run of n images on a 60×60 grid: what two discs gave, over and over, on busy photos, with kept proposals."""
    rng = np.random.default_rng(0)
    root.mkdir()
    originals = [record for record in RunReader(run) if masks_of(record)]
    grid = (60, 60)

    def enlarged(map_GhGw: np.ndarray) -> np.ndarray:
        noise = rng.normal(0, 0.02, grid) if map_GhGw.dtype.kind == "f" else np.zeros(grid)
        return (np.kron(map_GhGw, np.ones((8, 8)))[:60, :60] + noise).astype(map_GhGw.dtype)

    for k, record in enumerate(originals):
        cells = rng.integers(0, 255, (24, 32, 3)).astype(np.uint8)
        photo = Image.fromarray(cells).resize((record.size[1], record.size[0]), Image.Resampling.BICUBIC)
        photo.save(root / f"{k}.jpg")
        instances = tuple(replace(one, confidence=enlarged(one.confidence)) for one in masks_of(record))
        depth = None if record.depth is None else enlarged(record.depth).clip(0, 1)
        originals[k] = replace(record, instances=instances, depth=depth)
    ids = [f"{i:05d}.jpg" for i in range(n)]
    refs = [ImageRef(id_, str(root / f"{i % len(originals)}.jpg")) for i, id_ in enumerate(ids)]
    records = [replace(originals[i % len(originals)], id=id_) for i, id_ in enumerate(ids)]
    copy = make_run(root, refs, records, grid)
    ledger = run.stage_ledger("confidence")
    first = KeptOutputs.open("confidence", ledger.contents(ledger.read("00000").shard))
    (cut,) = first.cut_images([int(np.flatnonzero(first.done)[0])])
    proposals = tuple(
        replace(
            p,
            eigenvector=enlarged(p.eigenvector),
            group=enlarged(p.group),
            mask=enlarged(p.mask),
            settled=enlarged(p.settled),
        )
        for p in cut.found.proposals
    )
    big = replace(cut, found=replace(cut.found, proposals=proposals), confidences=(None,) * len(proposals))
    for shard in copy.manifest.shards():
        data = write_outputs("localcut", [big] * len(shard.refs), grid, {})
        counts = {"images": len(shard.refs), "quarantined": 0}
        copy.stage_ledger("localcut").commit(shard.key, new_attempt(), Outcome(data, counts))
    return copy


@ONLY_ROUNDS
@pytest.mark.slow(20)
def test_two_thousand_images(run: RunFolder, tmp_path: Path) -> None:
    page = write_gallery(many_images(tmp_path / "many", run, 2000), tmp_path / "gallery.html")
    assert page.images == 2000
    assert page.bytes < 50e6
    with chromium() as browser:
        browser.open(page.file)
        browser.wait("document.querySelector('.masks')")
        paint = browser.run("return performance.getEntriesByName('first-contentful-paint')[0].startTime")
        print(f"{page.bytes / 2e6:.1f} kB an image, first paint after {paint:.0f} ms", file=sys.stderr)
        assert browser.run("return document.querySelectorAll('.place').length") < 60, "only cards in view exist"
        # From top to bottom at some 30 screens a second, and the time of each frame.
        browser.run(
            "window.frames_ms = []; window.done = false; let last = performance.now(), y = 0;"
            "const tick = (now) => { frames_ms.push(now - last); last = now; y += 600; scrollTo(0, y);"
            "if (frames_ms.length < 200) requestAnimationFrame(tick); else window.done = true };"
            "requestAnimationFrame(tick)"
        )
        browser.wait("window.done")
        frames = np.array(browser.run("return frames_ms"))
        print(f"scrolling: median {np.median(frames):.0f} ms, longest {frames.max():.0f} ms a frame", file=sys.stderr)
        browser.run("scrollTo(0, document.body.scrollHeight)")
        browser.wait("[...document.querySelectorAll('.name')].some((n) => n.textContent === '01999.jpg')")
        browser.wait("document.querySelector('.place[data-position=\"1999\"] .masks')")
        assert browser.run("return document.querySelectorAll('.place').length") < 60
        browser.type("#query", "0077")
        assert browser.run("return document.querySelector('#shown').textContent") == "11 of 2,000 images"
        assert browser.errors() == []
