"""PanopticStore holds what the runs hold, its split is that of all of them, and a sample is a function of a Draw."""

import logging
import pickle
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.panoptic_runs import empty, random_panoptic, record_of, void, write_run
from support.semantic_runs import CLASSES
from torch.utils.data import DataLoader

from detector.data.dataset import RunDataset
from detector.data.loading import LoadPhoto
from detector.data.panoptic_loading import LoadPanoptic
from detector.data.panoptic_store import PanopticStore, PanopticStoreDataset, split_facts, split_of
from detector.data.sampling import Draw, SeededSampler
from pipeline.errors import ConfigError, StoreError
from pipeline.results.kinds import Failed
from pipeline.results.panoptic import PanopticRecord
from pipeline.results.panoptic_kind import PanopticKind
from pipeline.results.semantic import Classes
from pipeline.runs.ledger import Outcome
from pipeline.runs.panoptic_reader import open_panoptic
from pipeline.runs.provenance import new_attempt
from pipeline.runs.run_folder import RunFolder

SIZES = ((24, 32), (40, 28), (33, 33))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTS3D_CACHE", str(tmp_path / "cache"))


def results_of(count: int = 8, seed: int = 0) -> list[PanopticRecord | Failed]:
    """Labels of all kinds: some images without an instance or without a class, and one that was set aside."""
    special: dict[int, Any] = {
        2: Failed("02.png", "truncated", "02.png ends too early"),
        4: empty("04.png", (20, 30), "too_small", 1),
        6: void("06.png", (20, 21)),
    }
    made = [random_panoptic(f"{i:02}.png", SIZES[i % 3], seed + i) for i in range(count)]
    return [special.get(i, record) for i, record in enumerate(made)]


def records_in(results: list[PanopticRecord | Failed]) -> list[PanopticRecord]:
    return [result for result in results if isinstance(result, PanopticRecord)]


def assert_holds(store: PanopticStore, records: list[PanopticRecord], first: int = 0) -> None:
    for image, record in enumerate(records, first):
        assert store.ref(image).id == record.id
        assert store.size(image) == record.size
        np.testing.assert_array_equal(store.labels(image), record.labels)
        np.testing.assert_array_equal(store.instance_ids(image), record.instance_ids)
        assert store.classes_of(image).tolist() == [one.class_ for one in record.instances]
        assert store.boxes_of(image).tolist() == [list(one.box) for one in record.instances]


def counted_by_hand(records: list[PanopticRecord]) -> dict[str, Counter[str]]:
    pixels, inside = Counter[str](), Counter[str]()
    for record in records:
        for c, name in enumerate(CLASSES.names):
            pixels[name] += int((record.labels == c).sum())
            inside[name] += int(((record.labels == c) & (record.instance_ids > 0)).sum())
    return {"pixels": pixels, "inside": inside}


def test_it_holds_what_was_recorded(tmp_path: Path) -> None:
    results = results_of()
    store = PanopticStore.open(write_run(tmp_path, results).url, only_non_empty=False)
    assert len(store) == 7
    assert_holds(store, records_in(results))


def test_images_without_an_instance_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    results = results_of()
    store = PanopticStore.open(write_run(tmp_path, results).url)
    kept = [record for record in records_in(results) if record.instances]
    assert [len(kept), len(store)] == [5, 5]
    assert_holds(store, kept)


def test_more_than_255_instances(tmp_path: Path) -> None:
    """Their ids take two bytes each."""
    ids = np.arange(20 * 20).reshape(20, 20)
    record = record_of("0.png", np.full((20, 20), 2, np.uint8), ids)
    store = PanopticStore.open(write_run(tmp_path, [record]).url)
    np.testing.assert_array_equal(store.instance_ids(0), ids)


def test_the_split_is_that_of_the_run_whatever_is_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path, results_of())
    expected = open_panoptic(run.url).split
    assert expected.thing_classes == (2, 3)
    assert PanopticStore.open(run.url).split == split_of(run.url) == expected
    assert PanopticStore.open(run.url, only_non_empty=False).split == expected


def test_runs_add_up(tmp_path: Path) -> None:
    """Images of both, one run after the other, and one split of the pixels of both."""
    first, second = results_of(), results_of(5, seed=50)
    urls = [write_run(tmp_path / name, results).url for name, results in (("a", first), ("b", second))]
    store = PanopticStore.open(urls, only_non_empty=False)
    assert_holds(store, records_in(first))
    assert_holds(store, records_in(second), first=7)
    counts = counted_by_hand(records_in(first) + records_in(second))
    ratios = [counts["inside"][name] / max(counts["pixels"][name], 1) for name in CLASSES.names]
    np.testing.assert_allclose(store.split.ratios, ratios)
    assert store.split == split_of(urls)
    assert store.n_instances == sum(len(r.instances) for r in records_in(first) + records_in(second))


def test_the_threshold_decides_what_is_a_thing(tmp_path: Path) -> None:
    run = write_run(tmp_path, results_of())
    shares = split_of(run.url).shares
    between = float(shares[[2, 3]].mean())
    assert abs(shares[2] - shares[3]) > 1e-4
    store = PanopticStore.open(run.url, threshold=between)
    assert store.split.thing_classes == (2 if shares[2] > shares[3] else 3,)
    assert 0 < store.n_instances < PanopticStore.open(run.url).n_instances
    assert PanopticStore.open(run.url, threshold=between).folder == PanopticStore.open(run.url).folder  # no second copy
    with pytest.raises(ConfigError, match="from 0 to below 1"):
        split_of(run.url, 1.0)


def test_what_the_maker_knows_to_be_things(tmp_path: Path) -> None:
    run = write_run(tmp_path, results_of(), things=(False, True, True, False))
    assert PanopticStore.open(run.url).split.thing_classes == split_of(run.url).thing_classes == (1, 2)
    with pytest.raises(ConfigError, match="leave the threshold out"):
        PanopticStore.open(run.url, threshold=0.1)


def test_runs_of_different_classes_or_things_are_no_data_set(tmp_path: Path) -> None:
    url = write_run(tmp_path / "a", results_of()).url
    others = Classes.clusters(4)
    other = write_run(tmp_path / "b", [random_panoptic("0.png", (20, 20), 0, others)], others).url
    with pytest.raises(ConfigError, match="different classes"):
        split_of([url, other])
    knows = write_run(tmp_path / "c", results_of(), things=(False, False, True, True)).url
    with pytest.raises(ConfigError, match="different things: those that its figures make things and person, "):
        PanopticStore.open([url, knows])
    with pytest.raises(ConfigError, match="named twice"):
        PanopticStore.open([url, url])
    with pytest.raises(ConfigError, match="the threshold of things is 'high': it must be a number from 0 to below 1"):
        split_of(url, "high")  # type: ignore[arg-type]


def test_a_retried_image_comes_once(tmp_path: Path) -> None:
    run = write_run(tmp_path, results_of())
    before = PanopticStore.open(run.url, only_non_empty=False)
    again = [random_panoptic("02.png", (24, 32), 2)]
    kind = PanopticKind(CLASSES)
    assert run.ledger.commit("retry-00000", new_attempt(), Outcome(kind.write(again, {}), kind.counts(again)))
    store = PanopticStore.open(run.url, only_non_empty=False)
    assert [len(before), len(store)] == [7, 8]
    assert_holds(store, again, first=7)
    assert store.split == open_panoptic(run.url).split


def test_an_incomplete_run_contributes_what_is_committed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    results = results_of()
    run = write_run(tmp_path, results, leave_out=["00001"])
    store = PanopticStore.open(run.url, only_non_empty=False)
    assert_holds(store, records_in([results[i] for i in (0, 1, 2, 6, 7)]))
    split_of(run.url)
    assert caplog.text.count("is not complete: 1 of 3 shards is missing") == 1, "said once"


def test_nothing_to_learn_is_said(tmp_path: Path) -> None:
    bare = write_run(tmp_path / "a", [empty(f"{i}.png", (20, 20), "few_reliable") for i in range(2)]).url
    with pytest.raises(ConfigError, match=r"none of 2 images .* has an instance: `cuts3d info` says why"):
        PanopticStore.open(bare)
    assert len(PanopticStore.open(bare, only_non_empty=False)) == 2
    failed = write_run(tmp_path / "b", [Failed("0.png", "truncated", "too early")]).url
    with pytest.raises(StoreError, match=r"all images .* were set aside"):
        PanopticStore.open(failed)
    missing = write_run(tmp_path / "c", results_of(), leave_out=["00000", "00001", "00002"]).url
    with pytest.raises(StoreError, match="no committed shard"):
        PanopticStore.open(missing)


def test_another_kind_of_run_is_refused(tmp_path: Path) -> None:
    from support.stored_run import make_run, sample_records

    url = make_run(tmp_path, sample_records()).url
    with pytest.raises(ConfigError, match="panoptic"):
        PanopticStore.open(url)


def test_pickled_it_is_the_same_files(tmp_path: Path) -> None:
    """So that all workers and ranks share one copy."""
    results = results_of()
    store = PanopticStore.open(write_run(tmp_path, results).url, threshold=0.3)
    data = pickle.dumps(store)
    assert len(data) < 1000
    again = pickle.loads(data)
    assert again.split == store.split
    assert_holds(again, [record for record in records_in(results) if record.instances])


def test_a_damaged_code_names_the_image(tmp_path: Path) -> None:
    store = PanopticStore.open(write_run(tmp_path, results_of()).url)
    path = store.folder / "labels.npy"
    content = bytearray(path.read_bytes())
    content[-40:] = bytes(40)
    path.write_bytes(bytes(content))
    with pytest.raises(StoreError, match=r"07\.png .*damaged.*verify"):
        store.labels(len(store) - 1)


def test_a_lost_cache_is_made_again(tmp_path: Path) -> None:
    run, results = write_run(tmp_path, results_of()), results_of()
    shutil.rmtree(PanopticStore.open(run.url).folder)
    assert_holds(PanopticStore.open(run.url, only_non_empty=False), records_in(results))


def data_set(run: RunFolder, **options: Any) -> PanopticStoreDataset:
    return PanopticStoreDataset(run.url, **{"pipeline": [LoadPhoto(), LoadPanoptic()]} | options)


def test_the_data_set_knows_its_classes(tmp_path: Path) -> None:
    dataset = data_set(write_run(tmp_path, results_of()))
    assert isinstance(dataset, RunDataset)
    assert dataset.metainfo["classes"] == CLASSES.names[2:]
    assert dataset.metainfo["stuff_classes"] == CLASSES.names[:2]
    assert (dataset.metainfo["things"], dataset.metainfo["stuffs"]) == ((2, 3), (0, 1))
    assert split_facts(dataset.store.split).items() <= dataset.metainfo.items()
    for i in range(len(dataset)):
        assert dataset.get_cat_ids(i) == dataset[i]["gt_bboxes_labels"].tolist()
    assert len(data_set(write_run(tmp_path / "b", results_of()), indices=2)) == 2


def test_a_sample_is_a_function_of_its_draw(tmp_path: Path) -> None:
    """In any order, in this process and in loading ones."""
    from detector.data.panoptic_loading import AreaCrop

    run = write_run(tmp_path, results_of())
    dataset = data_set(run, pipeline=[LoadPhoto(), LoadPanoptic(), AreaCrop()])
    sampler = SeededSampler(dataset, seed=3)
    draws = [draw for draw, _ in zip(sampler, range(12), strict=False)]
    there = [dataset[draw] for draw in draws]
    back = [dataset[draw] for draw in draws[::-1]][::-1]
    loader: Any = DataLoader(dataset, 2, sampler=sampler, num_workers=2, collate_fn=list)
    loaded = [sample for batch, _ in zip(loader, range(6), strict=False) for sample in batch]
    assert len({draw.seed for draw in draws}) == 12
    for first, second, third in zip(there, back, loaded, strict=True):
        for name in ("img", "gt_seg_map", "gt_bboxes_labels"):
            np.testing.assert_array_equal(first[name], second[name])
            np.testing.assert_array_equal(first[name], third[name])
        np.testing.assert_array_equal(first["gt_masks"].values, third["gt_masks"].values)
    assert dataset[Draw(0, 1)]["img"].tobytes() != dataset[Draw(0, 2)]["img"].tobytes()
