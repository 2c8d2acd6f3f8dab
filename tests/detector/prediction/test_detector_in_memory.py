"""A trained detector on images in memory: `cuts3d.load("detector")` gives what a run of it stores."""

from pathlib import Path

import numpy as np
import pytest
from support.method_samples import do, draw
from support.tiny_detector import write_tiny

import cuts3d


def test_it_gives_what_a_run_stores(tmp_path: Path) -> None:
    draw(tmp_path)
    do("detector", tmp_path, tmp_path / "run")
    options = {"checkpoint": tmp_path / "detector.pth", "max_per_image": 3, "grid": 4}
    model = cuts3d.load("detector", overrides={f"detector.{name}": value for name, value in options.items()})
    stored = list(cuts3d.open_run(tmp_path / "run"))
    assert sum(map(len, stored)) > 5
    for image in stored:
        for given in (image.photo, tmp_path / "photos" / image.id):
            found = model.predict(given)
            assert [one.rle for one in found.instances] == [one.rle for one in image.instances]
            np.testing.assert_allclose(found.scores, image.scores, rtol=1e-5)


def test_what_is_no_detector_is_refused(tmp_path: Path) -> None:
    with pytest.raises(cuts3d.WeightsError, match="there is no checkpoint"):
        cuts3d.load("detector", overrides={"detector.checkpoint": tmp_path / "nowhere.pth"})
    write_tiny(tmp_path / "tiny.pth")
    with pytest.raises(cuts3d.ConfigError, match="its options are detector"):
        cuts3d.load("detector", overrides={"detector.checkpoint": tmp_path / "tiny.pth", "features.size": 420})
