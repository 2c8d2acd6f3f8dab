"""One image laid open: the same numbers as a run's, shown truly in the panel, the PLY files and the 3D page."""

import base64
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import open3d as o3d
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from support.browser import Browser, chromium
from support.pages import check_policy, check_strangers
from support.tiny_method import draw_photos, tiny_method

from pipeline.cli import main
from pipeline.engine import run as runner
from pipeline.images.manifest import ImageRef
from pipeline.images.photos import Photo, load_photo
from pipeline.methods.cuts.load import load_cuts
from pipeline.results.instance_overlay import decode, instance_colours
from pipeline.runs.launch import Launch
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.views.inspect import writing as inspection_writing
from pipeline.views.inspect.cells import Pictures
from pipeline.views.inspect.inspection import NO_INSTANCE, Inspection, inspect_image
from pipeline.views.inspect.page import page_html
from pipeline.views.inspect.panel import CELL, draw_panel
from pipeline.views.inspect.sheet import DPI, Sheet
from pipeline.views.inspect.words import cut_sentence, drop_sentence, label, stop_sentence, story
from pipeline.views.inspect.writing import write_clouds
from pipeline.wording import counted
from stages.affinity import affinity_edges
from stages.filters import DropReason
from stages.local_cut import cut_at
from stages.ncut import ncut
from stages.refine import RefineConfig
from stages.spatial_confidence import spatial_confidence, threshold_ladder

HOSTILE = "</script><img src=x onerror=alert(1)> ${data} $x^ \u202e\n&amp;.png"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return draw_photos(tmp_path_factory.mktemp("photos"), 4, seed=3)


def photo_of(file: Path) -> Photo:
    return load_photo(ImageRef(file.name, str(file)))


ALL_PIECES = "local_cut.pieces=all"


@pytest.fixture(scope="module")
def by_rounds(files: list[Path]) -> list[Inspection]:
    method = tiny_method("cuts3d_rounds", ["filters.min_area=0.1"])
    shown = [inspect_image(photo_of(file), method) for file in files]
    proposals = [found for inspection in shown for found in inspection.proposals]
    assert any(found.dropped for found in proposals)
    assert any(found.instance and found.proposal.round > 0 for found in proposals)
    return shown


@pytest.fixture(scope="module")
def by_tree(files: list[Path]) -> list[Inspection]:
    shown = [inspect_image(photo_of(file), tiny_method()) for file in files]
    proposals = [found.proposal for inspection in shown for found in inspection.proposals]
    assert {1, 2} <= {proposal.level for proposal in proposals}
    assert {True, False} == {np.isfinite(proposal.tau) for proposal in proposals}, "parts and pieces of them"
    return shown


@pytest.fixture(scope="module")
def inspections(by_rounds: list[Inspection], by_tree: list[Inspection]) -> list[Inspection]:
    return by_rounds + by_tree


RECIPES = [
    ("maskcut", ()),
    ("cuts3d_rounds", ()),
    ("cuts3d_rounds", (ALL_PIECES,)),
    ("cuts3d", ()),
    ("hassod", ()),
    ("promerge", ("merge.need_background=false",)),
    ("promerge", ("merge.grouping=adjacent", "merge.min_attention=1", "local_cut=on")),
]


@pytest.mark.parametrize(("recipe", "overrides"), RECIPES)
def test_the_record_is_that_of_a_run(
    recipe: str, overrides: tuple[str, ...], files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = tiny_method(recipe, overrides)
    runner.run(tmp_path / "run", Launch(images=str(files[0].parent)), method=method)
    for stored in RunReader(RunFolder.open(tmp_path / "run")):
        inspection = inspect_image(photo_of(files[0].parent / stored.id), tiny_method(recipe, overrides))
        record = inspection.record
        assert (record.status, record.drops) == (stored.status, stored.drops)
        assert [i.rle for i in record.instances] == [i.rle for i in stored.instances]
        np.testing.assert_allclose(
            [i.score for i in record.instances], [i.score for i in stored.instances], rtol=1e-6, atol=0
        )
        reasons = [str(found.dropped) for found in inspection.proposals if found.dropped]
        assert {reason: reasons.count(reason) for reason in reasons} == stored.drops
        for found in inspection.proposals:
            if found.instance is not None:
                assert found.refined is not None
                np.testing.assert_array_equal(found.refined, decode(found.instance.rle, record.size))
                assert found.parts == found.instance.parts


@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        ("maskcut", ["filters.min_area=0.1"]),
        ("cuts3d_rounds", ["filters.min_area=0.1"]),
        ("cuts3d_rounds", [ALL_PIECES]),
    ],
)
def test_every_round_follows_from_what_it_shows(recipe: str, overrides: list[str], files: list[Path]) -> None:
    """NCut of what is said to be left gives the eigenvector; the graph, cut, the mask; and so on."""
    method = tiny_method(recipe, overrides)
    for file in files:
        shown = inspect_image(photo_of(file), method)
        importance = None if shown.importance is None else torch.from_numpy(shown.importance.reshape(1, -1))
        edges = affinity_edges(
            torch.from_numpy(shown.features)[None], shown.recipe.affinity, importance, shown.recipe.sharpen
        )
        unit = shown.features.astype(np.float64)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        for found in shown.proposals:
            proposal = found.proposal
            alive = torch.from_numpy(~found.outside.reshape(1, -1))
            again = ncut(edges, alive, shown.recipe.affinity.epsilon, shown.recipe.ncut)
            x, y = proposal.eigenvector.ravel(), again.eigenvector_BN[0].numpy()
            assert abs(float(x @ y)) == pytest.approx(1, abs=1e-3)
            np.testing.assert_allclose(found.cosines.ravel(), unit @ unit[proposal.source], atol=1e-3)
            expected = edges[0, proposal.source].numpy() * ~found.outside.ravel()
            np.testing.assert_array_equal(found.edges.ravel(), expected)
            cut, levels = shown.recipe.local_cut, shown.recipe.spatial_confidence
            if cut is None or levels is None:
                assert found.graph is None
                assert proposal.tau == np.inf
                continue
            assert proposal.tau == cut.tau_on(shown.grid)
            side, _ = cut_at(found.graph, proposal.tau, proposal.source, proposal.sink, cut)
            np.testing.assert_array_equal(side.reshape(shown.grid) & proposal.group, proposal.mask)
            if found.confidence is not None:
                confidence = spatial_confidence(
                    shown.depth, proposal.group, proposal.mask, proposal.source, proposal.sink, cut, levels
                )
                np.testing.assert_allclose(found.confidence, confidence, atol=0.5 / 255 + 1e-6)


def test_every_mask_of_a_tree_follows_from_what_it_shows(by_tree: list[Inspection]) -> None:
    """NCut of what is said to be cut gives the eigenvector; its side, the part; LocalCut at the threshold, the mask."""
    for shown in by_tree:
        recipe, cut = shown.recipe, shown.recipe.local_cut
        unit = torch.nn.functional.normalize(torch.from_numpy(shown.features).float(), dim=1).numpy()
        cosines = unit @ unit.T
        parts = {part.mask.tobytes(): part.depth for part in shown.tree}
        for found in shown.proposals:
            proposal = found.proposal
            inside = ~found.outside.ravel()
            assert (proposal.eigenvector.ravel()[~inside] == 0).all()
            assert inside.all() == (proposal.level == 1)
            similarity = cosines[np.ix_(inside, inside)]
            edges = similarity > max(recipe.affinity.tau, similarity.mean())
            expected = np.zeros(len(inside), bool)
            expected[inside] = edges[inside[: proposal.source].sum()]
            assert ((found.edges.ravel() > 0) != expected).sum() <= 1  # a cosine at the threshold, rounded otherwise
            graph = torch.from_numpy(edges[None]).float()
            alive = torch.ones(graph.shape[:2], dtype=torch.bool)
            again = ncut(graph, alive, recipe.affinity.epsilon, recipe.ncut)
            x, y = proposal.eigenvector.ravel()[inside], again.eigenvector_BN[0].numpy()
            assert abs(float(x @ y)) == pytest.approx(1, abs=1e-2)
            assert (x > x.mean())[proposal.group.ravel()[inside]].all()
            assert parts[proposal.group.tobytes()] == proposal.level
            side = proposal.group.ravel()
            if np.isfinite(proposal.tau):
                assert proposal.tau <= cut.tau_on(shown.grid)
                side = cut_at(found.graph, proposal.tau, proposal.source, proposal.sink, cut)[0] & side
            np.testing.assert_array_equal(side, proposal.mask.ravel())
        places = [found.proposal.round for found in shown.proposals]
        assert places == sorted(places)
        scores = [instance.score for instance in shown.record.instances]
        assert scores == sorted(scores, reverse=True)


@pytest.mark.slow
def test_a_verdict_of_the_crf_is_shown(files: list[Path]) -> None:
    method = tiny_method()
    strict = dataclasses.replace(method.recipe, refine=RefineConfig(size=64, min_crf_iou=1.0))
    shown = inspect_image(photo_of(files[0]), dataclasses.replace(method, recipe=strict))
    judged = [found for found in shown.proposals if found.proposal.dropped is None]
    assert judged
    for found in judged:
        assert found.dropped is DropReason.CRF_DISAGREES
        assert found.crf_iou is not None
        assert 0 <= found.crf_iou < 1
        assert found.refined is not None
    assert draw_panel(shown).width > 1000


def test_point_clouds_open_in_open3d(inspections: list[Inspection], tmp_path: Path) -> None:
    for shown in inspections:
        cloud, instances = (o3d.io.read_point_cloud(str(file)) for file in write_clouds(shown, tmp_path))
        gh, gw = shown.grid
        points = np.asarray(cloud.points)
        assert points.shape == np.asarray(instances.points).shape == (gh * gw, 3)
        np.testing.assert_allclose(points, shown.points_N3 * [1, -1, -1], atol=1e-6)
        # independent of the unprojection: corner patches are corners, and z is the depth grid, away from the viewer
        np.testing.assert_allclose(points[[0, gw - 1, -1], :2], [[0, 0], [1, 0], [1, -1]], atol=1e-6)
        np.testing.assert_allclose(-points[:, 2].reshape(gh, gw), shown.depth, atol=1e-6)

        height, width = shown.photo.rgb.shape[:2]
        bottom = np.asarray(cloud.colors).reshape(gh, gw, 3)[-1, 0]
        own_patch = shown.photo.rgb[height - height // gh :, : width // gw].mean(axis=(0, 1)) / 255
        np.testing.assert_allclose(bottom, own_patch, atol=0.12)

        expected = np.tile(NO_INSTANCE, (gh * gw, 1))
        palette = instance_colours(len(shown.record.instances))
        became = [found for found in shown.proposals if found.instance is not None]
        coloured = zip(palette, became, strict=True)
        for colour, found in sorted(coloured, key=lambda pair: -pair[1].proposal.mask.sum()):
            expected[found.proposal.mask.ravel()] = colour
        np.testing.assert_allclose(np.asarray(instances.colors), expected / 255, atol=1e-6)


def embedded(page: str) -> dict:
    """The data of a page."""
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.S)[1])


def unpacked(packed: dict[str, str]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed["data"]), packed["type"])


def test_the_page_holds_the_arrays(inspections: list[Inspection]) -> None:
    for shown in inspections:
        data = embedded(page_html(shown))
        assert data["grid"] == list(shown.grid)
        assert len(data["proposals"]) == len(shown.proposals)
        cut, confidence = shown.recipe.local_cut, shown.recipe.spatial_confidence
        assert data["tau"] == cut.tau_on(shown.grid)
        assert data["ladder"] == list(threshold_ladder(data["tau"], confidence))
        np.testing.assert_allclose(unpacked(data["points"]).reshape(-1, 3), shown.points_N3, atol=1e-6)
        np.testing.assert_array_equal(unpacked(data["photo"]).reshape(-1, 3), shown.photo_N3)
        np.testing.assert_array_equal(unpacked(data["instances"]).reshape(-1, 3), shown.instances_N3)
        for packed, found in zip(data["proposals"], shown.proposals, strict=True):
            assert (packed["source"], packed["sink"]) == (found.proposal.source, found.proposal.sink)
            assert bool(packed["dropped"]) == (found.dropped is not None)
            assert packed["tau"] == (found.proposal.tau if np.isfinite(found.proposal.tau) else None)
            if packed["score"] is not None:
                assert np.prod(list(packed["parts"].values())) == pytest.approx(packed["score"], rel=1e-6)
            np.testing.assert_array_equal(unpacked(packed["outside"]), ~found.proposal.was_cut.ravel())
            np.testing.assert_array_equal(unpacked(packed["group"]), found.proposal.group.ravel())
            np.testing.assert_array_equal(unpacked(packed["eigenvector"]), found.proposal.eigenvector.ravel())
            edges, lengths = unpacked(packed["edges"]).reshape(-1, 2), unpacked(packed["lengths"])
            assert (np.diff(lengths) >= 0).all()
            order = np.lexsort((found.graph.edges_E2[:, 1], found.graph.edges_E2[:, 0]))
            again = np.lexsort((edges[:, 1], edges[:, 0]))
            np.testing.assert_array_equal(edges[again], found.graph.edges_E2[order])
            np.testing.assert_array_equal(lengths[again], found.graph.lengths_E[order])


def test_a_file_name_stays_text(files: list[Path], inspections: list[Inspection]) -> None:
    photo = dataclasses.replace(inspections[0].photo, id=HOSTILE)
    shown = dataclasses.replace(inspections[0], photo=photo)
    page = page_html(shown)
    assert "<img" not in page
    assert page.count("<script") == page.count("</script>") == 2
    assert embedded(page)["name"] == HOSTILE.replace("\u202e", "·").replace("\n", "·")
    check_policy(page)
    assert draw_panel(shown).width > 1000  # "$" is no formula


def test_in_a_browser_the_page_runs_itself_alone(inspections: list[Inspection], tmp_path: Path) -> None:
    shown = dataclasses.replace(inspections[0], photo=dataclasses.replace(inspections[0].photo, id=HOSTILE))
    file = tmp_path / "cloud.html"
    file.write_text(page_html(shown), encoding="utf-8")
    with chromium() as page:
        page.open(file)
        page.wait(f"proposals.length === {len(shown.proposals)}")
        assert page.run("return document.getElementById('name').textContent") == embedded(page_html(shown))["name"]
        page.click("#view")
        page.press("ArrowRight")
        assert page.run("return getComputedStyle(document.querySelector('main')).display") == "grid", "it has its style"
        check_strangers(page)


@pytest.mark.slow
def test_merging_is_told_in_its_own_words(files: list[Path]) -> None:
    shown = inspect_image(photo_of(files[0]), tiny_method("promerge", ["merge.stride=2"]))
    assert shown.background is not None
    assert shown.background.any()
    kept = len(shown.proposals)
    assert "merged where they overlap" in story(shown)
    assert stop_sentence(shown) == f"{counted(kept, 'mask')} are left after merging."
    assert [label(found, shown) for found in shown.proposals] == [f"Mask {k + 1}" for k in range(kept)]
    assert draw_panel(shown).width > 1000
    for found in shown.proposals:
        assert (found.edges > 0).ravel()[found.proposal.source], "a prompt is like itself"
        assert not found.outside.any()


@pytest.mark.parametrize(
    ("overrides", "name", "why"),
    [
        (["merge.bipartition_tau=1"], "Background", "no prompt holds more than half of two sides"),
        (["merge.bipartition_tau=-1"], "Background", "no mask stands out from the background"),
        (["merge.grouping=adjacent", "merge.min_attention=50"], "Mask", "the class token looks at it too little"),
    ],
)
def test_an_image_without_merged_masks_says_why(overrides: list[str], name: str, why: str, files: list[Path]) -> None:
    shown = inspect_image(photo_of(files[0]), tiny_method("promerge", overrides))
    assert shown.proposals
    for found in shown.proposals:
        assert label(found, shown) == name
        assert why in drop_sentence(found, shown)
    assert stop_sentence(shown) == "0 masks are left after merging."
    assert draw_panel(shown).width > 1000


def test_the_panel_has_a_row_for_each_proposal(
    by_rounds: list[Inspection], by_tree: list[Inspection], files: list[Path]
) -> None:
    for inspections in (by_rounds, by_tree):
        shown = max(inspections, key=lambda shown: len(shown.proposals))
        low, high = draw_panel(dataclasses.replace(shown, proposals=shown.proposals[:1])), draw_panel(shown)
        assert (high.height - low.height) / (len(shown.proposals) - 1) > CELL * DPI * 0.5
    flat = inspect_image(photo_of(files[0]), tiny_method("maskcut"))
    assert draw_panel(flat).width < low.width  # one stage less
    with pytest.raises(ValueError, match="does not look at depth"):
        _ = flat.points_N3
    with pytest.raises(ValueError, match="no LocalCut"):
        page_html(flat)


def test_each_search_has_its_words(by_rounds: list[Inspection], by_tree: list[Inspection]) -> None:
    for shown in by_rounds:
        assert label(shown.proposals[0], shown) == "Round 1"
        assert "Stopped after" in stop_sentence(shown)
        assert "round" in story(shown)
        assert cut_sentence(shown.proposals[0], shown) == f"piece at τ = {shown.proposals[0].proposal.tau:.3g}"
    for shown in by_tree:
        words = [label(found, shown) for found in shown.proposals]
        assert words == [f"Mask {k + 1}" for k in range(len(words))]
        assert f"{len(shown.tree)} parts in the tree, {len(words)} masks chosen" in stop_sentence(shown)
        assert "round" not in story(shown) + stop_sentence(shown)
        for found in shown.proposals:
            itself = bool((found.proposal.group == found.proposal.mask).all())
            assert (cut_sentence(found, shown) == "the part as it is") == itself


@pytest.mark.slow
def test_a_tree_without_local_cut(files: list[Path]) -> None:
    shown = inspect_image(photo_of(files[0]), tiny_method(overrides=["spatial_confidence=none", "local_cut=none"]))
    assert shown.proposals
    assert draw_panel(shown).width > 1000
    for found in shown.proposals:
        np.testing.assert_array_equal(found.proposal.mask, found.proposal.group)
        assert found.unknown_parts(shown.recipe) == {"nearness", "stability"}


def test_regions_have_a_row_for_each_of_the_best(files: list[Path]) -> None:
    shown = inspect_image(photo_of(files[0]), tiny_method("hassod", ["hierarchy.min_pixels=20"]))
    assert [found.instance for found in shown.rows] != []
    assert len(shown.rows) == min(16, len(shown.record.instances)) <= len(shown.proposals)
    assert label(shown.rows[0], shown).startswith("Region ")
    assert "merge" in story(shown)
    assert stop_sentence(shown).startswith(f"{len(shown.proposals)} regions, {len(shown.record.instances)} mask")
    low = draw_panel(dataclasses.replace(shown, proposals=shown.proposals[:1]))
    assert draw_panel(shown).height >= low.height
    for found in shown.proposals:
        assert (drop_sentence(found, shown) == "") == (found.instance is not None)


@pytest.mark.parametrize("recipe", ["cuts3d", "cuts3d_rounds"])
def test_an_image_without_contrast(recipe: str, tmp_path: Path) -> None:
    grey = Photo("grey.png", np.full((64, 64, 3), 128, np.uint8))
    shown = inspect_image(grey, tiny_method(recipe))
    assert np.asarray(draw_panel(shown)).std() > 1
    assert len(embedded(page_html(shown))["proposals"]) == len(shown.proposals)
    assert len(write_clouds(shown, tmp_path)) == 2


def cuts3d(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.slow
def test_the_command(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        inspection_writing, "load_cuts", lambda launch, *_: tiny_method(launch.recipe, launch.overrides)
    )
    monkeypatch.chdir(tmp_path)
    result = cuts3d("inspect", files[0])
    assert result.exit_code == 0, result.output
    names = ["panel.png", "cloud.ply", "instances.ply", "cloud.html"]
    assert result.output.split() == [f"inspect-{files[0].stem}/{name}" for name in names]
    with Image.open(f"inspect-{files[0].stem}/panel.png") as panel:
        assert panel.width > 1000
    models = "--features", "dinov2_vits14"
    result = cuts3d("inspect", files[0], "--out", "flat", "--recipe", "maskcut", "--set", "rounds.n=1", *models)
    assert result.output.split() == ["flat/panel.png"]

    result = cuts3d("inspect", files[0].parent)
    assert result.exit_code == 2
    assert "inspect takes one image" in result.output
    Path("broken.png").write_bytes(b"nothing")
    assert "not_an_image" in cuts3d("inspect", "broken.png").output
    Path("file").touch()
    result = cuts3d("inspect", files[0], "--out", "file/below")
    assert result.exit_code == 2
    assert "cannot write file/below" in result.output


def live(page: Browser, found: int, tau: float) -> tuple[int, int]:
    """Patches and cut edges that the page counts once its sliders stand there."""
    page.run(
        """for (const [id, value] of [["proposal", arguments[0]], ["tau", arguments[1]]]) {
          const slider = document.getElementById(id);
          slider.value = value;
          slider.dispatchEvent(new Event("input"));
        }""",
        found,
        tau,
    )
    text = page.run("return document.getElementById('live').textContent")
    match = re.match(r"(\d+) patch(?:es)? hangs? on the source, (\d+) cut edges? at", text)
    assert match, text
    return int(match[1]), int(match[2])


@pytest.mark.parametrize("recipe", ["cuts3d", "cuts3d_rounds"])
@pytest.mark.slow(30)
def test_the_page_cuts_as_local_cut_does(recipe: str, assets: Path, tmp_path: Path) -> None:
    """On a real photo, in a real browser: the live cut at any threshold is LocalCut's, and everything is drawn."""
    launch = Launch(
        recipe=recipe,
        settings={
            "features": f"dinov2_vits14={assets}/weights/dinov2_vits14_fp16.safetensors",
            "depth": f"{assets}/weights/pydnet_v2.onnx",
        },
        overrides=("features.size=420",),
    )
    photo = photo_of(assets / "coco" / "images" / "000000005802.jpg")
    shown = inspect_image(dataclasses.replace(photo, id=HOSTILE), load_cuts(launch, "cpu"))
    cut = shown.recipe.local_cut
    file = tmp_path / "cloud.html"
    file.write_text(page_html(shown), encoding="utf-8")
    assert file.stat().st_size < 4e6
    with chromium(1400, 900) as page:
        page.open(file)
        assert page.run("return document.getElementById('name').textContent") == embedded(page_html(shown))["name"]
        assert page.run("return document.images.length + document.scripts.length") == 2
        areas = set()
        for index, found in enumerate(shown.proposals):
            page.open(file, f"proposal={index + 1}")
            page.wait(f"state.proposal === {index}")
            inside = page.run("return [...component.inside]")
            np.testing.assert_array_equal(inside, found.proposal.mask.ravel())  # as it was cut, to begin with
            assert page.run("return state.tau === Infinity") == np.isinf(found.proposal.tau)
            for tau in np.linspace(0.2, 1.9, 18) * cut.tau_on(shown.grid):
                side, _ = cut_at(found.graph, tau, found.proposal.source, found.proposal.sink, cut)
                inside = side & found.proposal.group.ravel()
                ends = inside[found.graph.edges_E2]
                n_cut = int((ends.any(1) & ~ends.all(1) & (found.graph.lengths_E >= tau)).sum())
                assert live(page, index, tau) == (int(inside.sum()), n_cut), (index, tau)
                areas.add(int(inside.sum()))
            page.run("const s = document.getElementById('tau'); s.value = s.max; s.dispatchEvent(new Event('input'))")
            text = page.run("return document.getElementById('live').textContent")
            assert text.startswith(f"All {int(found.proposal.group.sum())} patches"), "the right end cuts nothing"
        assert len(areas) > 5, "the threshold changes little here: choose another photo"
        cut_one = 1 + next(k for k, found in enumerate(shown.proposals) if np.isfinite(found.proposal.tau))
        page.open(file, "proposal=1&tau=0.03&colour=confidence")
        page.wait("state.tau === 0.03")
        assert page.run("return [state.proposal, state.colour]") == [0, "confidence"]

        for width, height in ((1400, 900), (390, 844)):
            page.resize(width, height)
            page.open(file, f"proposal={cut_one}&colour=eigenvector")
            page.run("return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")
            assert page.run("return document.documentElement.scrollWidth") <= width
            page.screenshot(tmp_path / "page.png")
            with Image.open(tmp_path / "page.png") as image:
                pixels = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(int)
            # source, sink, cut edges; thin lines are blended with what lies behind them, the marks are not
            for colour, far in (((255, 176, 0), 12), ((77, 184, 255), 12), ((255, 61, 127), 90)):
                assert (np.abs(pixels - colour).sum(1) < far).sum() > 40, f"{colour} is not to be seen at {width}"
        page.click("#view")
        before = page.run("return [camera.yaw, document.getElementById('view').toDataURL()]")
        page.press("ArrowRight")
        page.run("return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")
        after = page.run("return [camera.yaw, document.getElementById('view').toDataURL()]")
        assert after[0] > before[0]
        assert after[1] != before[1]
        assert page.errors() == []


def test_marks_of_patches_at_the_edge_stay_within_the_picture(by_tree: list[Inspection]) -> None:
    """Those of the first row of patches stuck out into the titles."""
    shared = Pictures(by_tree[0])
    columns, patches = by_tree[0].grid[1], by_tree[0].grid[0] * by_tree[0].grid[1]
    for patch in (0, columns - 1, patches - columns, patches - 1):
        sheet = Sheet(4.0, 4.0)
        axes = sheet.place(1.0, 1.0, 2.0, 2.0)
        shared.show(axes, np.full(by_tree[0].grid, np.nan))
        shared.mark(axes, patch, "#000000", "^")
        height, width = by_tree[0].photo.rgb.shape[:2]
        drawn = np.argwhere(np.asarray(sheet.picture().convert("L")) < 128)
        assert len(drawn) > 20
        assert drawn.min() >= DPI
        assert (drawn.max(axis=0) <= DPI * (1 + 2 * np.array([height, width]) / max(height, width))).all()
