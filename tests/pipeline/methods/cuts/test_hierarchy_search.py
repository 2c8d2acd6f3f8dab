"""The hierarchy of regions, from features to stored instances with levels."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pycocotools import mask as coco_mask
from support.recorded_maskcut import GRID as PHOTO_GRID
from support.recorded_maskcut import photos
from support.tiny_method import draw_photos, in_place_of_models, tiny_method

import cuts3d
from pipeline.cli import main
from pipeline.engine.run import run
from pipeline.errors import ConfigError
from pipeline.methods.cuts import hierarchy_search
from pipeline.methods.cuts.hierarchy_search import partitions, search_hierarchy, with_levels
from pipeline.methods.cuts.proposals import StopReason
from pipeline.methods.cuts.recipes import Recipe, get_recipe
from pipeline.methods.cuts.stage_files import CutImage, KeptOutputs, write_outputs
from pipeline.results.instance_kind import InstanceKind
from pipeline.results.instances import Instance
from pipeline.runs.launch import Launch
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.views.export import export_coco
from stages.filters import DropReason
from stages.hierarchy import HierarchyConfig

GRID = (12, 12)


def of(*overrides: str, thresholds: str = "0.9,0.6,0.3") -> tuple[Recipe, HierarchyConfig]:
    published = ["select.same_iou=1", "hierarchy.min_area=0", "score=constant"]
    recipe = get_recipe("hassod", ["affinity.tau=0.1", *published, f"hierarchy.thresholds={thresholds}", *overrides])
    assert isinstance(recipe.search, HierarchyConfig)
    return recipe, recipe.search


def scene() -> torch.Tensor:
    """A thing of two halves that are alike (0.8), on a ground that is not (0.45): (1, N, 3)."""
    kinds = np.zeros(GRID, int)
    kinds[3:9, 3:6], kinds[3:9, 6:9] = 1, 2
    features = np.array([[1.0, 0.0, 0.0], [0.45, 0.893, 0.0], [0.45, 0.5, 0.74]])[kinds]
    return torch.from_numpy(features.reshape(1, -1, 3)).half()


def test_a_whole_is_found_after_its_parts() -> None:
    recipe, rules = of()
    (found,) = search_hierarchy(scene(), GRID, recipe, rules)
    assert found.stop is StopReason.REGIONS
    assert [(p.round, p.tau, int(p.mask.sum())) for p in found.proposals] == [
        *((0, 0.9, 108), (0, 0.9, 18), (0, 0.9, 18)),
        *((1, 0.6, 108), (1, 0.6, 36)),
        (2, 0.3, 144),
    ]
    for proposal in found.proposals:
        assert proposal.dropped is None
        assert proposal.mask.flat[proposal.source]
        assert np.array_equal(proposal.mask, proposal.settled)
        assert proposal.eigenvector.max() == pytest.approx(1.0, abs=0.1)
    assert all(0 < p.parts.novelty <= 1 for p in found.proposals)


def test_duplicates_stay_unless_they_are_not_wanted() -> None:
    """The ground is a region of two thresholds."""
    recipe, rules = of("select.same_iou=0.92")
    (found,) = search_hierarchy(scene(), GRID, recipe, rules)
    assert [p.dropped for p in found.proposals] == [*[None] * 3, DropReason.OVERLAPS_PREVIOUS, None, None]
    recipe, rules = of("select.masks=2", "score=contrast*uniqueness*clearance*novelty")
    (found,) = search_hierarchy(scene(), GRID, recipe, rules)
    kept = [p for p in found.proposals if p.dropped is None]
    assert len(kept) == 2
    assert {p.dropped for p in found.proposals} == {None, DropReason.UNSELECTED}
    assert 36 in [int(p.mask.sum()) for p in kept], "the thing as a whole is among the best"


def test_small_regions_are_no_masks_but_take_part() -> None:
    """Together they are one more region of their threshold."""
    recipe, rules = of("hierarchy.min_area=0.2")
    (found,) = search_hierarchy(scene(), GRID, recipe, rules)
    assert [int(p.mask.sum()) for p in found.proposals] == [108, 108, 36, 144]
    first, second, third = partitions(found.proposals)
    assert [np.bincount(p.labels.ravel()).tolist() for p in (first, second, third)] == [[108, 36], [108, 36], [144]]
    assert (first.wanted, second.wanted, third.wanted) == ((0,), (0, 1), (0,))
    assert partitions(()) == []


def test_dropped_proposals_share_the_image_out_with_the_others() -> None:
    recipe, rules = of("select.masks=1")
    (found,) = search_hierarchy(scene(), GRID, recipe, rules)
    assert sum(len(partition.wanted) for partition in partitions(found.proposals)) == 1
    assert [int(partition.labels.max()) for partition in partitions(found.proposals)] == [2, 1, 0]


def test_a_crf_has_only_so_many_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest of those that are no masks share one."""
    monkeypatch.setattr(hierarchy_search, "MOST_LABELS", 2)
    recipe, rules = of("select.masks=1")
    (found,) = search_hierarchy(scene(), GRID, recipe, rules)
    first = partitions(found.proposals)[0]
    assert sorted(np.bincount(first.labels.ravel()).tolist()) == [18, 18, 108]
    recipe, rules = of("select.masks=1", thresholds="1.0")
    (found,) = search_hierarchy(scene() + 0.1 * torch.randn(1, 144, 3), GRID, recipe, rules)
    assert len(found.proposals) > 100
    assert partitions(found.proposals)[0].labels.max() == 2


def test_proposals_are_kept_and_read_back() -> None:
    recipe, rules = of("select.masks=2", "select.same_iou=0.92")
    (found,) = search_hierarchy(scene(), GRID, recipe, rules)
    kept = KeptOutputs.open("localcut", write_outputs("localcut", [CutImage(found, (None,) * 6)], GRID, {}))
    (again,) = kept.cut_images([0])
    assert again.found.stop is StopReason.REGIONS
    for one, other in zip(again.found.proposals, found.proposals, strict=True):
        assert (one.round, one.tau, one.dropped, one.parts) == (other.round, other.tau, other.dropped, other.parts)
        assert np.array_equal(one.mask, other.mask)


def test_a_batch_is_its_images_on_photos(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    recipe, rules = of("hierarchy.min_area=0.004", thresholds="0.7,0.5,0.3")
    read = zip(range(2), photos(assets, tmp_path_factory), strict=False)
    features = torch.from_numpy(np.stack([own for _, (_, own) in read]))
    together = search_hierarchy(features, PHOTO_GRID, recipe, rules)
    for own, found in zip(features, together, strict=True):
        (alone,) = search_hierarchy(own[None], PHOTO_GRID, recipe, rules)
        assert [p.mask.tobytes() for p in alone.proposals] == [p.mask.tobytes() for p in found.proposals]
        assert len(found.proposals) > 10
        for partition in partitions(found.proposals):
            assert partition.labels.min() == 0


def instance(mask: np.ndarray) -> Instance:
    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    x, y, width, height = coco_mask.toBbox(code).tolist()
    confidence = np.full((1, 1), 255, np.uint8)
    return Instance(code["counts"], (x, y, width, height), int(mask.sum()), 1.0, confidence, 0)


def test_levels_of_instances() -> None:
    masks = np.zeros((4, 20, 30), bool)
    masks[0, 2:18, 2:20] = masks[1, 4:16, 4:12] = masks[2, 6:10, 6:10] = masks[3, :4, 25:] = True
    found = with_levels([instance(mask) for mask in masks], (20, 30), HierarchyConfig())
    assert [one.level for one in found] == [0, 1, 2, 0]
    assert with_levels([], (20, 30), HierarchyConfig()) == []


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunFolder]:
    """Photos, and a run of the recipe on them."""
    folder = tmp_path_factory.mktemp("hierarchy")
    draw_photos(folder / "photos", 4)
    launch = Launch(str(folder / "photos"), recipe="hassod", overrides=("hierarchy.min_pixels=20",), shard_size=2)
    method = tiny_method("hassod", launch.overrides)
    assert run(folder / "run", launch, method=method).complete
    return folder, RunFolder.open(folder / "run")


def test_levels_are_stored_and_exported(done: tuple[Path, RunFolder], tmp_path: Path) -> None:
    _, folder = done
    records = list(RunReader(folder))
    stored = [instance.level for record in records for instance in record.instances]  # type: ignore[union-attr]
    assert {0, 1} <= set(stored) <= {0, 1, 2}
    export_coco(folder, tmp_path / "masks.json")
    annotations = json.loads((tmp_path / "masks.json").read_text())["annotations"]
    assert [annotation["level"] for annotation in annotations] == stored
    images = list(cuts3d.open_run(folder.url))
    assert [level for image in images for level in image.levels] == stored
    assert images[0].to_coco()[0]["level"] == images[0].levels[0]
    table = cuts3d.open_run(folder.url).dataframe()
    assert table["level"].tolist() == stored


def test_each_region_refined_alone_or_all_of_a_threshold_together() -> None:
    """Without a CRF both are the regions, up-sampled; nearest or bilinear."""
    overrides = ["hierarchy.min_pixels=0", "hierarchy.max_corners=4"]
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (64, 64, 3)).astype(np.uint8)
    together = cuts3d.Model(tiny_method("hassod", overrides)).predict(image)
    alone = cuts3d.Model(tiny_method("hassod", [*overrides, "hierarchy.compete=false"])).predict(image)
    assert len(alone) >= len(together) > 0
    with_crf = tiny_method("hassod", [*overrides, "refine.crf=on", "refine.crf.iterations=2"])
    assert cuts3d.Model(with_crf).predict(image).record.drops.keys() <= {"crf_disagrees", "overlaps_previous"}


def test_stages_are_kept_and_taken_up_again(
    done: tuple[Path, RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, whole = done
    in_place_of_models(monkeypatch, lambda launch: tiny_method(launch.recipe, launch.overrides))
    arguments = ["run", "--images", str(folder / "photos"), "--out", str(tmp_path / "run"), "--recipe", "hassod"]
    arguments += ["--shard-size", "2", "--set", "hierarchy.min_pixels=20"]
    for stage in (["--until", "features"], ["--until", "localcut"], ["--until", "confidence"], []):
        result = CliRunner().invoke(main, [*arguments, *stage])
        assert result.exit_code == 0, result.output
    again = RunFolder.open(tmp_path / "run")
    assert [commit.shard.sha256 for commit in again.ledger.committed().values()] == [
        commit.shard.sha256 for commit in whole.ledger.committed().values()
    ]
    result = CliRunner().invoke(main, ["gallery", str(tmp_path / "run"), "--out", str(tmp_path / "page.html")])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(main, ["info", str(tmp_path / "run")])
    assert "hierarchy" in result.output
    stored = [instance.level for record in RunReader(again) for instance in record.instances]  # type: ignore[union-attr]
    counts = InstanceKind().survey([(RunReader(again).open_shard("00000"), np.ones(2, bool))])["levels"]
    assert counts.keys() == {"whole", "part", "subpart"}
    assert 0 < sum(counts.values()) <= len(stored)
    assert "subpart" in result.output


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--until", "ncut"], "recipe hassod solves no NCut: there is no ncut stage to run"),
        (["--until", "depth"], "does not look at depth"),
        (["--set", "affinity.epsilon=0.1"], "never reads affinity.epsilon, since it merges regions by their features"),
        (["--set", "filters.max_iou=0.3"], "never reads filters.max_iou, since it merges regions by their features"),
        (["--set", "local_cut=on"], "hierarchy merges by features alone"),
        (["--set", "hierarchy.thresholds=0.1,0.2"], "hierarchy.thresholds must fall, as in 0.4,0.2,0.1, got 0.1,0.2"),
        (["--set", "hierarchy.thresholds=high"], "hierarchy.thresholds is a number"),
        (["--features", "dinov3_vits16"], "no thresholds are known for merging the features dinov3_vits16"),
    ],
)
def test_what_it_does_not_read_is_refused(options: list[str], says: str, tmp_path: Path) -> None:
    draw_photos(tmp_path, 1)
    command = ["run", "--images", str(tmp_path), "--out", str(tmp_path / "run"), "--recipe", "hassod", *options]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2, result.output
    assert says in result.output
    assert not (tmp_path / "run").exists()


def test_thresholds_as_python_and_toml_write_them(tmp_path: Path) -> None:
    for text in ("0.5,0.25", "(0.5, 0.25)", "[0.5, 0.25]"):
        assert of(thresholds=text)[1].taus == (0.5, 0.25)
    assert of(thresholds="(0.5,)")[1].taus == (0.5,)
    file = tmp_path / "mine.toml"
    file.write_text('base = "hassod"\n[hierarchy]\nthresholds = [0.5, 0.25]\n')
    result = CliRunner().invoke(main, ["recipes", str(file)])
    assert result.exit_code == 0, result.output
    assert "hierarchy.thresholds = [0.5,0.25]" in result.output
    with pytest.raises(ConfigError, match=r"select.masks is a number \(int\), got '\[5\]'"):
        get_recipe("hassod", ["select.masks=[5]"])
