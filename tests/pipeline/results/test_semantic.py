"""A class and a confidence per pixel: codes, cells, colours, and what is refused."""

import hashlib
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import StoreError
from pipeline.results.kinds import Failed
from pipeline.results.semantic import (
    NONE,
    Classes,
    SemanticRecord,
    class_colours,
    counts_of,
    relabelled,
)
from pipeline.results.semantic_codes import decoded, encoded, grid_of

THREE = Classes.clusters(3)


@settings(max_examples=40)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 255), st.integers(0, 2**32))
def test_labels_come_back_as_they_were(height: int, width: int, most: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, most, (height, width)).astype(np.uint8)
    np.testing.assert_array_equal(decoded(encoded(labels), (height, width)), labels)


def test_anybody_reads_a_code() -> None:
    labels = np.random.default_rng(0).integers(0, 9, (20, 30)).astype(np.uint8)
    rows = np.frombuffer(zlib.decompress(encoded(labels)), np.uint8).reshape(20, 30)
    np.testing.assert_array_equal(np.bitwise_xor.accumulate(rows, axis=0), labels)
    turned = np.asfortranarray(labels)
    assert encoded(turned) == encoded(labels), "however it lies in memory"
    assert encoded(labels[::2, ::2]) == encoded(labels[::2, ::2].copy())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda code: code[:-5], "does not cover the 20 x 30"),
        (lambda code: b"nonsense", "cannot be decoded"),
        (lambda code: b"", "does not cover"),
        (lambda code: code + b"more", "does not cover"),
        (lambda code: encoded(np.zeros((21, 30), np.uint8)), "does not cover"),
        (lambda code: encoded(np.zeros((19, 30), np.uint8)), "does not cover"),
        (lambda code: code[:8] + bytes([code[8] ^ 255]) + code[9:], "decoded|cover"),
    ],
)
def test_a_damaged_code_is_found(damage: object, message: str) -> None:
    code = encoded(np.random.default_rng(0).integers(0, 9, (20, 30)).astype(np.uint8))
    with pytest.raises(ValueError, match=message):
        decoded(damage(code), (20, 30))  # type: ignore[operator]


def test_a_record_keeps_pixels_shares_and_means() -> None:
    labels = np.zeros((16, 24), np.uint8)
    labels[:, 8:] = 2
    labels[:8, 16:] = NONE
    confidence = np.zeros((16, 24), np.float32)
    confidence[:8, :8] = 1
    confidence[8:, 8:16] = 0.5
    record = SemanticRecord.of("a.png", labels, confidence, THREE)
    np.testing.assert_array_equal(record.labels, labels)
    assert (record.size, record.pixels, record.unlabelled, record.status) == ((16, 24), (128, 0, 192), 64, "ok")
    np.testing.assert_allclose(record.shares, [1 / 3, 0, 1 / 2])
    np.testing.assert_array_equal(record.cells, [[255, 0, 0], [0, 128, 0]])
    assert record.mean_confidence == pytest.approx(0.25, abs=1e-3)
    assert (record.confidence.shape, record.confidence.dtype) == ((16, 24), np.float32)
    assert record.confidence[3, 3] == 1
    assert record.confidence[15, 11] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("size", [(16, 16), (17, 33), (1, 1), (7, 300), (480, 640)])
def test_cells_cover_the_image_and_a_plane_stays_one(size: tuple[int, int]) -> None:
    """Confidence that rises evenly is the same after it was kept, but at the border, where it is cut off."""
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    confidence = (0.2 + 0.3 * rows / size[0] + 0.4 * columns / size[1]).astype(np.float32)
    record = SemanticRecord.of("a", np.zeros(size, np.uint8), confidence, THREE)
    assert record.cells.shape == grid_of(size) == (-(-size[0] // 8), -(-size[1] // 8))
    inside = np.s_[4 : size[0] - 4, 4 : size[1] - 4]
    np.testing.assert_allclose(record.confidence[inside], confidence[inside], atol=0.006)
    assert np.abs(record.confidence - confidence).max() < 0.3 / record.cells.shape[0] + 0.4 / record.cells.shape[1]


def test_confidence_of_a_coarser_grid_is_taken() -> None:
    """What a network gives for its patches needs no enlarging first."""
    coarse = np.array([[0.0, 1.0], [0.5, 0.25]], np.float64)
    record = SemanticRecord.of("a", np.zeros((64, 64), np.uint8), coarse, THREE)
    assert record.cells.shape == (8, 8)
    np.testing.assert_array_equal(record.cells[[0, 0, 7, 7], [0, 7, 0, 7]], [0, 255, 128, 64])


@pytest.mark.parametrize(
    ("labels", "confidence", "message"),
    [
        (np.zeros((4, 4), np.int64), np.zeros((4, 4), np.float32), "must be uint8"),
        (np.zeros((4, 4, 1), np.uint8), np.zeros((4, 4), np.float32), "must be uint8"),
        (np.zeros((0, 4), np.uint8), np.zeros((4, 4), np.float32), "must be uint8"),
        (np.full((4, 4), 3, np.uint8), np.zeros((4, 4), np.float32), "label 3 is none of the 3 classes, nor 255"),
        (np.full((4, 4), 254, np.uint8), np.zeros((4, 4), np.float32), "label 254"),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8), "must be float"),
        (np.zeros((4, 4), np.uint8), np.zeros((1, 4, 4), np.float32), "must be float"),
        (np.zeros((4, 4), np.uint8), np.full((4, 4), 1.01, np.float32), "0..1"),
        (np.zeros((4, 4), np.uint8), np.full((4, 4), np.nan, np.float32), "0..1"),
    ],
)
def test_what_is_no_map_is_refused(labels: np.ndarray, confidence: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SemanticRecord.of("a", labels, confidence, THREE)


def test_an_image_without_a_class() -> None:
    record = SemanticRecord.of("a", np.full((9, 9), NONE, np.uint8), np.zeros((9, 9), np.float32), THREE)
    assert (record.status, record.unlabelled, record.pixels) == ("no_labels", 81, (0, 0, 0))


def test_255_classes_fit() -> None:
    classes = Classes.clusters(255)
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    record = SemanticRecord.of("a", labels, np.ones((16, 16), np.float32), classes)
    assert (record.pixels, record.unlabelled) == ((1,) * 255, 1)
    np.testing.assert_array_equal(record.labels, labels)
    with pytest.raises(ValueError, match="1 to 255 classes, not 256"):
        Classes.clusters(256)


@pytest.mark.parametrize(
    ("names", "colours", "message"),
    [
        ((), (), "1 to 255"),
        (("a", "a"), ((0, 0, 0),) * 2, "each one another"),
        (("a", ""), ((0, 0, 0),) * 2, "must be texts"),
        (("a", "b"), ((0, 0, 0),), "2 classes need as many colours"),
        (("a",), ((0, 0, 256),), "0..255"),
        (("a",), ((0, 0),), "red, green and blue"),
    ],
)
def test_what_are_no_classes_is_refused(names: tuple[str, ...], colours: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Classes(names, colours)


@pytest.mark.parametrize("value", [None, 3, [3], [{}], [{"name": "a"}], {"a": 1}, [{"name": "a", "colour": 7}]])
def test_classes_that_are_no_json_of_ours(value: object) -> None:
    with pytest.raises(ValueError, match=r"class|colour"):
        Classes.from_json(value)


def test_classes_survive_json() -> None:
    classes = Classes.named(["sky", "Straße"])
    assert Classes.from_json(classes.to_json()) == classes


def test_other_classes_in_place_of_clusters() -> None:
    labels = np.array([[0, 1], [2, NONE]], np.uint8)
    record = SemanticRecord.of("a", labels, np.ones((2, 2), np.float32), THREE)
    table = np.full(256, NONE, np.uint8)
    table[:2] = 1  # both clusters are class 1, the third is none
    named = relabelled(record, table, Classes.named(["animal", "person"]))
    np.testing.assert_array_equal(named.labels, [[1, 1], [NONE, NONE]])
    assert (named.pixels, named.unlabelled, named.classes.names) == ((0, 2), 2, ("animal", "person"))
    np.testing.assert_array_equal(named.cells, record.cells)


def test_counts() -> None:
    record = SemanticRecord.of("a", np.array([[0, 2], [2, NONE]], np.uint8), np.ones((2, 2), np.float32), THREE)
    assert counts_of([record, record, Failed("b", "truncated", "")]) == {
        "images": 3,
        "pixels": {"cluster 0": 2, "cluster 2": 4},
        "unlabelled": 2,
        "quarantined": 1,
    }


def test_a_damaged_code_is_told_with_its_image() -> None:
    record = SemanticRecord("a.png", (2, 2), THREE, b"nonsense", (4, 0, 0), np.zeros((1, 1), np.uint8))
    with pytest.raises(StoreError, match=r"a\.png"):
        _ = record.labels


# --- colours ----------------------------------------------------------------------------------------------------------


def test_colours_are_the_same_whatever_their_number() -> None:
    """Legends of different runs and versions agree: these are part of what is written."""
    assert class_colours(8) == (
        *((90, 15, 255), (0, 150, 0), (255, 0, 90), (45, 180, 255)),
        *((90, 255, 0), (120, 60, 30), (240, 165, 0), (225, 0, 255)),
    )
    all_of_them = class_colours(255)
    assert hashlib.sha256(np.array(all_of_them, np.uint8).tobytes()).hexdigest()[:12] == "960824263be1"
    for count in (1, 27, 200):
        assert class_colours(count) == all_of_them[:count]
    assert len(set(all_of_them)) == 255


def test_colours_can_be_told_apart() -> None:
    """In CIELAB by Pillow's littlecms, an independent measure: 2.3 is what an eye just notices."""
    from PIL import ImageCms

    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    pixels = np.array([[*class_colours(27), (0, 0, 0), (255, 255, 255)]], np.uint8)
    lab = np.asarray(ImageCms.applyTransform(Image.fromarray(pixels), to_lab)).astype(np.int16)[0]
    lab = np.stack([lab[:, 0] / 2.55, lab[:, 1], lab[:, 2]], axis=1)
    lab[:, 1:] = np.where(lab[:, 1:] > 127, lab[:, 1:] - 256, lab[:, 1:])
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=2) + 1e3 * np.eye(len(lab))
    assert distances.min() > 15
