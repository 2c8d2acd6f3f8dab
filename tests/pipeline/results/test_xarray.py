"""The store's files open in xarray as they are."""

from pathlib import Path

import numpy as np
import xarray
import zarr
from support.tiny_method import draw_photos, tiny_method

from pipeline.engine.shard_worker import ShardWorker
from pipeline.images.manifest import Shard
from pipeline.images.sources import list_images
from pipeline.results.instance_file import ShardFile


def test_a_shard_opens_in_xarray(tmp_path: Path) -> None:
    draw_photos(tmp_path / "photos", 4)
    shard = Shard("00000", list_images(str(tmp_path / "photos")).refs)
    file = tmp_path / "00000.zarr.zip"
    file.write_bytes(ShardWorker(tiny_method(), 2).process(shard, "refine", {}, {}).data)
    ours = ShardFile.open(file)
    store = zarr.storage.ZipStore(file, mode="r")
    masks = xarray.open_zarr(store, group="masks", consolidated=False)
    images = xarray.open_zarr(store, group="images", consolidated=False)
    np.testing.assert_array_equal(masks["score"].values, ours.score)
    np.testing.assert_array_equal(masks["confidence"].values, ours.confidence)
    assert masks["confidence"].dims == ("mask", "grid_y", "grid_x")
    assert images.sizes["image"] == 4
    np.testing.assert_array_equal(images["size"].values, ours.size)
