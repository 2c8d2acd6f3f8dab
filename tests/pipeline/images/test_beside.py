"""Where photos are looked for beside the file that names them, the same for lists, imports and true objects."""

import json
from pathlib import Path

import pytest
from support.bad_images import encoded, gradient

from pipeline.commands.import_coco import import_coco
from pipeline.errors import SourceError
from pipeline.evaluation.truth.formats import read_truth
from pipeline.images import beside
from pipeline.images.beside import first_that_holds, folder_of_photos, places_beside
from pipeline.images.sources import list_images
from pipeline.runs.run_folder import RunFolder


def test_places_in_their_order() -> None:
    assert places_beside("/data/annotations/instances_val2017.json") == [
        *("/data/annotations", "/data/annotations/images", "/data/annotations/val2017"),
        *("/data", "/data/images", "/data/val2017"),
    ]
    assert places_beside("s3://b/a/x.json") == ["s3://b/a", "s3://b/a/images", "s3://b", "s3://b/images"]


@pytest.mark.parametrize(
    "place", ["annotations", "annotations/images", "annotations/val2017", ".", "images", "val2017"]
)
def test_all_readers_find_them_in_each_place(place: str, tmp_path: Path) -> None:
    """As a source of images, as an import and as true objects."""
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    folder.joinpath("a.jpg").write_bytes(encoded(gradient(40, 60), "JPEG"))
    file = tmp_path / "annotations" / "instances_val2017.json"
    file.parent.mkdir(exist_ok=True)
    annotation = {"id": 1, "image_id": 7, "category_id": 1, "bbox": [5, 5, 20, 20], "area": 200}
    annotation["segmentation"] = [[5, 5, 25, 5, 25, 25]]
    image = {"id": 7, "file_name": "a.jpg", "height": 40, "width": 60}
    file.write_text(json.dumps({"images": [image], "annotations": [annotation]}))
    photo = str((folder / "a.jpg").resolve())
    assert [ref.uri for ref in list_images(str(file)).refs] == [photo]
    assert read_truth(str(file)).images == [(7, photo)]
    import_coco(str(file), tmp_path / "run")
    assert [ref.uri for ref in RunFolder.open(tmp_path / "run").manifest.refs] == [photo]


def test_a_few_photos_suffice_and_all_are_looked_for_before_it_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{number}.jpg" for number in range(100)]
    for folder in ("empty", "some"):
        (tmp_path / folder).mkdir()
    (tmp_path / "some" / "77.jpg").touch()
    folders = [str(tmp_path / "empty"), str(tmp_path / "some")]
    assert first_that_holds(folders, names) == folders[1]
    monkeypatch.setattr(beside, "MOST_LOCAL", 50)  # every second one: 77 is not among them
    assert first_that_holds(folders, names) is None
    with pytest.raises(SourceError, match=r"^x: none of 50 images looked for in .*/empty exists, .*/0.jpg; say it$"):
        folder_of_photos("x", names, folders[0], "say it")
