"""Reading many photos in threads, and what the rest of the process notices of it: nothing."""

import io
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image
from support.bad_images import bomb, encoded, gradient

from pipeline.errors import ConfigError, ImageError
from pipeline.images.manifest import ImageRef
from pipeline.images.photos import Photo, load_photo, load_photos

FS = fsspec.filesystem("memory")


def ref_of(data: bytes, name: str = "photo") -> ImageRef:
    FS.pipe_file(f"/images/{name}", data)
    return ImageRef(name, f"memory://images/{name}")


def reason_of(ref: ImageRef, **options: int) -> str:
    with pytest.raises(ImageError) as caught:
        load_photo(ref, **options)
    return caught.value.reason


# --- warnings ---------------------------------------------------------------------------------------------------------


def noisy_tiff() -> bytes:
    data = encoded(gradient(), "TIFF", compression="tiff_lzw")
    return data[: len(data) * 9 // 10]


def test_no_warning_leaks_and_others_are_heard() -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with pytest.warns(UserWarning, match="Corrupt EXIF|Truncated"), pytest.raises(Image.UnidentifiedImageError):
            Image.open(io.BytesIO(noisy_tiff()))
        assert reason_of(ref_of(noisy_tiff())) == "truncated"
        assert reason_of(ref_of(bomb(9_500, 9_500)), max_pixels=1000) == "too_large"  # a DecompressionBombWarning
        assert not heard
        warnings.warn("mine", UserWarning, stacklevel=1)
    assert [str(w.message) for w in heard] == ["mine"]


def test_warnings_as_errors_change_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reason_of(ref_of(noisy_tiff())) == "truncated"
        with pytest.raises(UserWarning):
            Image.open(io.BytesIO(noisy_tiff()))


def test_a_decoding_thread_silences_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, release = threading.Event(), threading.Event()
    plain_open = Image.open

    def slow_open(*args: object, **options: object) -> Image.Image:
        inside.set()
        release.wait()
        warnings.warn("from the decoder", UserWarning, stacklevel=1)
        return plain_open(*args, **options)

    monkeypatch.setattr(Image, "open", slow_open)
    ref = ref_of(encoded(gradient(), "PNG"))
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        thread = threading.Thread(target=load_photo, args=(ref,), daemon=True)
        thread.start()
        assert inside.wait()
        warnings.warn("from the user", UserWarning, stacklevel=1)
        release.set()
        thread.join()
    assert [str(w.message) for w in heard] == ["from the user"]


# --- many photos ------------------------------------------------------------------------------------------------------


def test_load_photos_keeps_order_and_pairs_errors_with_refs() -> None:
    rng = np.random.default_rng(0)
    refs, expected = [], []
    for i in range(40):
        height, width = rng.integers(16, 300, 2)
        data = b"no image" if i % 7 == 3 else encoded(np.full((height, width, 3), i, np.uint8), "PNG")
        refs.append(ref_of(data, f"{i}.png"))
        expected.append(None if i % 7 == 3 else (height, width, 3))
    for workers in (1, 3):
        results = list(load_photos(iter(refs), workers))
        assert len(results) == 40
        for i, (result, shape) in enumerate(zip(results, expected, strict=True)):
            if shape is None:
                assert isinstance(result, tuple)
                assert result[0] is refs[i]
                assert result[1].reason == "not_an_image"
            else:
                assert isinstance(result, Photo)
                assert (result.id, result.rgb.shape, result.rgb.max()) == (f"{i}.png", shape, i)


def test_load_photos_reads_only_a_little_ahead() -> None:
    asked = []

    def refs() -> Iterator[ImageRef]:
        for i in range(100):
            asked.append(i)
            yield ref_of(encoded(gradient(), "PNG"), f"{i}.png")

    photos = load_photos(refs(), workers=2)
    assert not asked
    for _ in range(3):
        next(photos)
    assert len(asked) <= 3 + 4
    before = threading.active_count()
    photos.close()
    assert threading.active_count() <= before
    assert len(asked) <= 3 + 4


def test_parameters_out_of_range() -> None:
    with pytest.raises(ConfigError, match="workers is 0"):
        list(load_photos([], workers=0))
    with pytest.raises(ConfigError, match="max_pixels is 0"):
        load_photo(ref_of(b""), max_pixels=0)
    assert list(load_photos([])) == []


# --- real photos ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_all_real_photos_decode(assets: Path) -> None:
    paths = [*sorted((assets / "coco" / "images").iterdir()), *sorted((assets / "imagenet").iterdir())]
    photos = list(load_photos(ImageRef(path.name, str(path)) for path in paths))
    assert len(photos) == 409
    assert [result for result in photos if isinstance(result, tuple)] == []
    assert all(isinstance(photo, Photo) and photo.rgb.std() > 5 for photo in photos)
