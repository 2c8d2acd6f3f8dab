"""Features and depth of crops: the record, its file, its kind."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import RunMismatchError, StoreError
from pipeline.results.crop_features import CropFeatures
from pipeline.results.crop_features_kind import CropFeaturesKind
from pipeline.results.instance_kind import InstanceKind
from pipeline.results.kinds import Failed
from pipeline.storage.array_file import ArrayFile, write_arrays

KIND = CropFeaturesKind(5)


def record(id_: str = "a.jpg", seed: int = 0, **changed: Any) -> CropFeatures:
    rng = np.random.default_rng(seed)
    own = {
        "features": rng.normal(size=(5, 6, 4, 3)).astype(np.float16),
        "depth": rng.random((5, 4, 3), np.float32),
        **changed,
    }
    return CropFeatures(id_, (40, 30), **own)


FILLED = record("c.jpg", 1, depth_filled=0.25)
RESULTS: list[CropFeatures | Failed] = [record(), Failed("ü/b.jpg", "missing", "it is not there"), FILLED]


@pytest.mark.parametrize("results", [RESULTS, RESULTS[1:2], [record(depth=None)]], ids=["some", "none", "no depth"])
def test_what_is_written_is_read(results: list[CropFeatures | Failed]) -> None:
    data = KIND.write(results, {"recipe": "r"})
    assert data == KIND.write(results, {"recipe": "r"})
    shard = CropFeaturesKind().open(data, "x.zarr.zip")
    assert [shard.result(i) for i in range(len(shard))] == results
    assert shard.done.tolist() == [isinstance(result, CropFeatures) for result in results]
    assert list(KIND.check(shard)) == []


def test_counts_and_words() -> None:
    flat = record("d.jpg", depth=np.zeros((5, 4, 3), np.float32))
    counts = KIND.counts([*RESULTS, flat])
    assert counts == {"images": 4, "quarantined": 1, "crops": 15, "depth_filled": 1, "depth_flat": 1}
    said = dict(KIND.summary(counts))
    assert said["crops"] == "15"
    assert "1 photo with the same depth everywhere" in said["depth"]
    assert "1 photo with holes" in said["depth"]
    assert KIND.log(flat) == {"status": "ok", "crops": 5, "depth_flat": True}
    assert KIND.log(FILLED)["depth_filled"] == 0.25
    assert "depth" not in dict(KIND.summary(KIND.counts([record(depth=None)])))
    assert KIND.facts(flat) == {"crops": 5, "depth range": 0.0}


def test_the_survey_counts_each_photo_once() -> None:
    shard = KIND.open(KIND.write(RESULTS, {}))
    survey = KIND.survey([(shard, np.array([True, True, False]))])
    assert (survey["crops"], survey["feature_width"], survey["grid"]) == (5, 6, [4, 3])
    assert survey["bytes_per_crop"] == 6 * 12 * 2 + 6 * 4 + 12 * 4
    assert KIND.survey_lines(survey) == ["features of 6 numbers on 4 x 3 patches, with depth: 216 bytes per crop"]
    assert KIND.survey([])["crops"] == 0


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"features": np.zeros((5, 6, 4, 3))}, "float16"),
        ({"features": np.full((5, 6, 4, 3), np.inf, np.float16)}, "finite"),
        ({"depth": np.zeros((5, 4, 4), np.float32)}, r"depth must be float32 \(5, 4, 3\)"),
        ({"depth": np.full((5, 4, 3), np.nan, np.float32)}, "finite"),
    ],
)
def test_a_record_that_cannot_be_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"a.jpg: .*{said}"):
        record(**changed)


def test_a_photo_with_another_number_of_crops_is_refused() -> None:
    with pytest.raises(ValueError, match="1 crop"):
        CropFeaturesKind(1).write(RESULTS, {})
    with pytest.raises(ValueError, match="how many"):
        CropFeaturesKind().write(RESULTS, {})


def test_damage_is_found(tmp_path: Path) -> None:
    data = KIND.write(RESULTS, {})
    with ArrayFile.open(data) as file:
        arrays = {name: file.read(name) for name in file.names()}
        attributes = file.attributes
        dims: Any = {name: getattr(file[name].metadata, "dimension_names") for name in arrays}  # noqa: B009  of version 3
    again = write_arrays(arrays | {"crops/mean": arrays["crops/mean"] + 1}, dims, attributes)
    assert list(KIND.check(KIND.open(again))) == ["crops/mean is not the mean of crops/features"]
    half = {name: array[:5] if name.startswith("crops/") else array for name, array in arrays.items()}
    with pytest.raises(StoreError, match=r"crops/features has shape \(5, 6, 4, 3\), not \(10, 6, 4, 3\)"):
        KIND.open(write_arrays(half, dims, attributes))
    with pytest.raises(StoreError, match="damaged"):
        KIND.open(data[:-30])
    with pytest.raises(RunMismatchError, match="crop-features"):
        KIND.open(InstanceKind((2, 2)).write([], {}))


@pytest.mark.parametrize("width", [1, 6])
def test_a_picture_shows_crops_below_the_photo(width: int) -> None:
    photo = np.full((40, 30, 3), 200, np.uint8)
    features = np.random.default_rng(0).normal(size=(5, width, 4, 3)).astype(np.float16)
    with_depth = KIND.draw(photo, record(features=features))
    without = KIND.draw(photo, record(features=features, depth=None))
    assert with_depth.width == without.width == 5 * 100 - 4
    assert with_depth.height - without.height == 100
    assert KIND.draw(photo, record(features=np.zeros((5, width, 4, 3), np.float16), depth=None)).size == without.size
