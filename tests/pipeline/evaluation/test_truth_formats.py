"""Benchmarks in their own formats, on tiny samples written as the benchmarks write them."""

import contextlib
import copy
import io
import json
import re
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from click.testing import CliRunner
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from support.bad_images import encoded, gradient, write

from pipeline import cli
from pipeline.commands.import_coco import import_coco
from pipeline.errors import ConfigError, SourceError
from pipeline.evaluation.scores import evaluate, score_detections
from pipeline.evaluation.truth.coco import Truth
from pipeline.evaluation.truth.formats import FORMATS, TruthSet, read_truth


def objects_of(found: TruthSet, file_name: str) -> list[tuple[list[float], int]]:
    """Box, rounded, and crowd flag of each object."""
    (image_id,) = (id_ for id_, image in found.truth.images.items() if image["file_name"] == file_name)
    return [(np.round(one["bbox"], 4).tolist(), one["iscrowd"]) for one in found.truth.objects(image_id)]


def size_of(found: TruthSet, file_name: str) -> tuple[int, int]:
    return next((i["height"], i["width"]) for i in found.truth.images.values() if i["file_name"] == file_name)


def photo(path: Path, height: int, width: int) -> None:
    write(path, encoded(gradient(height, width), "PNG" if path.suffix == ".png" else "JPEG"))


# --- PASCAL VOC and its layout ----------------------------------------------------------------------------------------

XML = """<annotation>
	<folder>VOC2007</folder>
	<filename>000005.jpg</filename>
	<source><database>The VOC2007 Database</database><image>flickr</image></source>
	<size>
		<width>500</width>
		<height>375</height>
		<depth>3</depth>
	</size>
	<segmented>0</segmented>
	<object>
		<name>chair</name>
		<pose>Rear</pose>
		<truncated>0</truncated>
		<difficult>0</difficult>
		<bndbox>
			<xmin>263</xmin>
			<ymin>211</ymin>
			<xmax>324</xmax>
			<ymax>339</ymax>
		</bndbox>
	</object>
	<object>
		<name>person</name>
		<difficult>1</difficult>
		<bndbox><xmax>500</xmax><xmin>1</xmin><ymax>375</ymax><ymin>1</ymin></bndbox>
		<part><name>head</name><bndbox><xmin>10</xmin><ymin>10</ymin><xmax>20</xmax><ymax>20</ymax></bndbox></part>
	</object>
</annotation>
"""


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = tmp_path / "VOCdevkit" / "VOC2007"
    write(root / "Annotations" / "000005.xml", XML.encode())
    write(root / "Annotations" / "000007.xml", XML.replace("211", "45.70").encode())
    write(root / "ImageSets" / "Main" / "trainval.txt", b"000005\n")
    write(root / "ImageSets" / "Main" / "test.txt", b"000007  1\n")
    write(root / "ImageSets" / "Main" / "chair_trainval.txt", b"000005 -1\n")
    return root


def test_voc(voc: Path) -> None:
    found = read_truth(f"voc:{voc}")
    assert (found.benchmark, found.has_masks, found.max_detections) == ("VOC", False, 100)
    assert found.images == [(1, f"{voc}/JPEGImages/000005.jpg"), (2, f"{voc}/JPEGImages/000007.jpg")]
    assert size_of(found, "000005.jpg") == (375, 500)
    # First and last pixel, counted from 1: pixels 262 to 323 are 62 of them; difficult ones are ignored.
    assert objects_of(found, "000005.jpg") == [([262, 210, 62, 129], 0), ([0, 0, 500, 375], 1)]
    assert objects_of(found, "000007.jpg")[0] == ([262, 44.7, 62, 294.3], 0)
    assert [one["area"] for one in found.truth.objects(1)] == [62 * 129, 500 * 375]
    assert [one["category"] for one in found.truth.objects(1)] == [1, 2]


def test_splits(voc: Path) -> None:
    assert [path[-10:] for _, path in read_truth(f"voc:{voc}:test").images] == ["000007.jpg"]
    with pytest.raises(SourceError, match=r"Main/val\.txt is not there: it has test, trainval$"):
        read_truth(f"voc:{voc}:val")
    with pytest.raises(SourceError, match=r"Main/trainval\.txt is not there: give the folder that has ImageSets"):
        read_truth(f"voc:{voc.parent}")


@pytest.mark.parametrize("benchmark", ["Clipart", "Watercolor", "Comic"])
def test_cross_domain(voc: Path, benchmark: str) -> None:
    (voc / "ImageSets/Main/trainval.txt").rename(voc / "ImageSets/Main/train.txt")
    found = read_truth(f"{benchmark.lower()}:{voc}")
    assert (found.benchmark, found.has_masks, len(found.truth.images)) == (benchmark, False, 2)


def test_a_size_that_the_xml_lacks_comes_from_the_photo(voc: Path) -> None:
    write(voc / "Annotations/000005.xml", XML.replace("500</width>", "0</width>").encode())
    with pytest.raises(SourceError, match="does not say how large its images are, and none of its photos"):
        read_truth(f"voc:{voc}:trainval")
    photo(voc / "JPEGImages/000005.jpg", 375, 500)
    assert size_of(read_truth(f"voc:{voc}:trainval"), "000005.jpg") == (375, 500)


def test_voc_by_url(voc: Path) -> None:
    memory = fsspec.filesystem("memory")
    for file in voc.rglob("*"):
        if file.is_file():
            memory.pipe_file(f"/voc/{file.relative_to(voc)}", file.read_bytes())
    found = read_truth("voc:memory://voc:test")
    assert found.images == [(1, "memory:///voc/JPEGImages/000007.jpg")]
    assert objects_of(found, "000007.jpg")[1] == ([0, 0, 500, 375], 1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("</annotation>", "", r"000005\.xml is not XML: no element found"),
        ("<xmin>263", "<xmin>x", r"000005\.xml, object 1: xmin must be a number, not 'x'"),
        ("<xmin>263</xmin>", "", r"000005\.xml, object 1: xmin must be a number, not ''"),
        ("<xmax>324", "<xmax>24", r"000005\.xml, object 1: its box ends before it begins: 262, 210 to 24, 339"),
    ],
)
def test_damaged_xml(voc: Path, old: str, new: str, message: str, caplog: pytest.LogCaptureFixture) -> None:
    """One odd object or file among others does not cost the others; where there is nothing else, it is refused."""
    write(voc / "Annotations/000005.xml", XML.replace(old, new).encode())
    found = read_truth(f"voc:{voc}")
    assert len(found.truth.objects(len(found.images))) == 2, "of the other file"
    assert re.search(message, caplog.text)
    assert re.search("1 of (4 objects|2 files) left out", caplog.text)
    write(voc / "Annotations/000005.xml", XML.replace(old, new).replace(XML[XML.rindex("<object>") : -15], "").encode())
    with pytest.raises(SourceError, match=f"none of its 1 (objects|files) can be used: .*{message}"):
        read_truth(f"voc:{voc}:trainval")


def test_lists_and_annotations_that_do_not_fit(voc: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(voc / "ImageSets/Main/test.txt", b"000008\n")
    with pytest.raises(SourceError, match=r"000008\.xml cannot be read"):
        read_truth(f"voc:{voc}")
    write(voc / "ImageSets/Main/test.txt", b"../../x\n")
    with pytest.raises(SourceError, match=r"test\.txt must list names of images, one a line, not '\.\./\.\./x'"):
        read_truth(f"voc:{voc}")
    write(voc / "ImageSets/Main/test.txt", b"../../x\n000007\n000008\n")
    assert [Path(path).name for _, path in read_truth(f"voc:{voc}:test").images] == ["000007.jpg"]
    assert "2 of 3 names left out: 1 no_name" in caplog.text
    assert "1 without an annotation, such as" in caplog.text


def test_a_line_that_is_not_utf8_costs_no_other(voc: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(voc / "ImageSets/Main/test.txt", b"000005\n\ncaf\xe9\n000007 1\n")
    assert len(read_truth(f"voc:{voc}:test").images) == 2
    assert re.search(r"1 of 3 names left out: 1 not UTF-8, such as \S+test\.txt, line 3 is not UTF-8", caplog.text)
    photo(tmp_path / "image_2" / "000000.png", 375, 1242)
    label = b"Car 0.00 0 1.85 387.63 181.54 423.81 203.12 1.67 1.87 3.69 -16.53 2.39 58.49 1.57\n"
    write(tmp_path / "label_2" / "000000.txt", label + label.replace(b"Car", b"caf\xe9") + label)
    assert len(objects_of(read_truth(f"kitti:{tmp_path}"), "000000.png")) == 2
    assert "1 of 3 lines left out: 1 not UTF-8, such as 000000.txt, line 2 is not UTF-8" in caplog.text


@pytest.mark.parametrize("name", ["img 1", "img (1)", "copy -1", "a 1 b"])
@pytest.mark.parametrize("flag", ["", " 1", "  1", "\t-1", " 0", "  "])
def test_names_with_spaces(voc: Path, name: str, flag: str) -> None:
    """The whole line is a name where there is such an annotation; else what follows it is a flag of a class list."""
    (voc / "Annotations/000005.xml").rename(voc / f"Annotations/{name}.xml")
    write(voc / "ImageSets/Main/trainval.txt", f"{name}{flag}\n".encode())
    assert read_truth(f"voc:{voc}:trainval").images == [(1, f"{voc}/JPEGImages/{name}.jpg")]


def test_a_name_that_ends_as_a_flag_is_a_name(voc: Path) -> None:
    write(voc / "Annotations/000005 1.xml", XML.encode())
    write(voc / "ImageSets/Main/trainval.txt", b"000005 1\n000005 -1\n")
    assert [Path(path).stem for _, path in read_truth(f"voc:{voc}:trainval").images] == ["000005 1", "000005"]


@pytest.mark.parametrize("encoding", ["gbk", "gb2312", "shift_jis", "euc-kr", "big5", "iso-8859-1", "utf-16"])
def test_xml_in_the_encoding_that_it_declares(voc: Path, encoding: str) -> None:
    named = XML if encoding == "iso-8859-1" else XML.replace("chair", "人")
    text = f'<?xml version="1.0" encoding="{encoding}"?>\n{named}'
    write(voc / "Annotations/000005.xml", text.encode(encoding))
    found = read_truth(f"voc:{voc}:trainval")
    assert objects_of(found, "000005.jpg") == [([262, 210, 62, 129], 0), ([0, 0, 500, 375], 1)]


@pytest.mark.parametrize("encoding", ["klingon", "hex", "gbk"])
def test_xml_that_is_not_in_its_encoding(voc: Path, encoding: str) -> None:
    text = f'<?xml version="1.0" encoding="{encoding}"?>'.encode() + XML.encode().replace(b"chair", b"\xff\xff")
    write(voc / "Annotations/000005.xml", text)
    message = rf"000005\.xml cannot be read in the encoding that it declares, {encoding}: "
    with pytest.raises(SourceError, match=message):
        read_truth(f"voc:{voc}:trainval")


def test_a_byte_order_mark_is_right_where_the_declaration_is_not(voc: Path) -> None:
    text = '<?xml version="1.0" encoding="gbk"?>' + XML.replace("chair", "é")
    write(voc / "Annotations" / "000005.xml", text.encode("utf-8-sig"))
    assert len(objects_of(read_truth(f"voc:{voc}:trainval"), "000005.jpg")) == 2


def test_xml_that_is_no_annotation(voc: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It must not pass for an image without objects."""
    write(voc / "Annotations" / "000005.xml", b"<html><body>Not found</body></html>")
    assert len(read_truth(f"voc:{voc}").images) == 1
    assert "000005.xml is no annotation of VOC: it begins with <html>" in caplog.text


def test_text_in_utf_16(voc: Path, tmp_path: Path) -> None:
    """As PowerShell writes lists, labels and tables."""
    write(voc / "ImageSets/Main/test.txt", "000005\n000007\n".encode("utf-16"))
    assert len(read_truth(f"voc:{voc}:test").images) == 2
    write(tmp_path / "boxes.csv", CSV.encode("utf-16"))
    photo(tmp_path / "0001eeaf4aed83f9.jpg", 100, 200)
    assert len(read_truth(f"openimages:{tmp_path}/boxes.csv", str(tmp_path)).images) == 1
    write(tmp_path / "label_2/0001eeaf4aed83f9.txt", KITTI.encode("utf-16"))
    assert len(read_truth(f"kitti:{tmp_path}", str(tmp_path)).images) == 1


def test_sizes_of_photos_need_not_be_whole_numbers(voc: Path) -> None:
    write(voc / "Annotations/000005.xml", XML.replace("500</width>", " 500.0 </width>").encode())
    assert size_of(read_truth(f"voc:{voc}:trainval"), "000005.jpg") == (375, 500)


# --- yes and no -------------------------------------------------------------------------------------------------------

YES = ["1", "1.0", "true", "True", "YES"]
NO = ["", "0", "0.0", "false", "False", "no"]


@pytest.mark.parametrize(("word", "ignored"), [(w, 1) for w in YES] + [(w, 0) for w in [*NO, "Unspecified"]])
def test_difficult(voc: Path, word: str, ignored: int) -> None:
    write(voc / "Annotations/000005.xml", XML.replace("t>1</d", f"t>{word}</d").encode())
    assert objects_of(read_truth(f"voc:{voc}:trainval"), "000005.jpg")[1][1] == ignored


@pytest.mark.parametrize(("word", "ignored"), [(w, 1) for w in YES] + [(w, 0) for w in [*NO, "-1"]])
def test_groups(tmp_path: Path, word: str, ignored: int) -> None:
    file = write(tmp_path / "boxes.csv", CSV.replace("1.0,0,0,1,", f"1.0,0,0,{word},").encode())
    photo(tmp_path / "000595fe6fee6369.jpg", 400, 800)
    assert objects_of(read_truth(f"openimages:{file}"), "000595fe6fee6369.jpg")[0][1] == ignored


@pytest.mark.parametrize(
    ("value", "crowd"),
    [(w, 1) for w in [*YES, 1, 1.0, True]] + [(w, 0) for w in [*NO, 0, 0.0, False, None, float("nan")]],
)
def test_crowds(value: Any, crowd: int) -> None:
    assert Truth(coco("a.jpg", iscrowd=value)).objects(40)[0]["iscrowd"] == crowd


def test_what_is_neither_yes_nor_no_costs_itself_alone(
    voc: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(voc / "Annotations/000007.xml", XML.replace("t>1</d", "t>maybe</d").encode())
    assert objects_of(read_truth(f"voc:{voc}"), "000007.jpg") == [([262, 210, 62, 129], 0)]
    assert "1 malformed, such as 000007.xml, object 2: difficult: 'maybe' is neither yes nor no" in caplog.text
    photo(tmp_path / "0001eeaf4aed83f9.jpg", 400, 800)
    file = write(tmp_path / "boxes.csv", CSV.replace("1.0,0,0,1,", "1.0,0,0,2,").encode())
    left = read_truth(f"openimages:{file}")
    assert [path[-20:] for _, path in left.images] == ["0001eeaf4aed83f9.jpg"]
    assert "1 malformed, such as line 3: IsGroupOf: '2' is neither yes nor no: write 1 or 0" in caplog.text


@pytest.mark.parametrize("value", [2, -1, "maybe", [1], {}, "none"])
def test_a_crowd_that_is_neither_costs_itself_alone(value: Any, caplog: pytest.LogCaptureFixture) -> None:
    document = coco("a.jpg", iscrowd=value)
    with pytest.raises(SourceError, match=r"none of its 1 annotations .* annotation 1: iscrowd: .* neither yes nor no"):
        Truth(document)
    document["annotations"].append(document["annotations"][0] | {"id": 2, "iscrowd": 0})
    assert len(Truth(document).objects(40)) == 1
    assert "1 of 2 annotations left out: 1 malformed, such as annotation 1: iscrowd" in caplog.text


# --- KITTI ------------------------------------------------------------------------------------------------------------

KITTI = """Car 0.00 0 -1.58 587.01 173.33 614.12 200.12 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59
Person_sitting 0.00 0 0.21 712.40 143.00 810.73 307.92 1.89 0.48 1.20 1.84 1.47 8.41 0.01

DontCare -1 -1 -10 503.89 169.71 590.61 190.13 -1 -1 -1 -1000 -1000 -1000 -10
dontcare -1 -1 -10 0 0 10 10 -1 -1 -1 -1000 -1000 -1000 -10
"""


@pytest.mark.parametrize("below", ["", "training/"])
@pytest.mark.parametrize("photos", ["image_2/{}.png", "JPEGImages/{}.jpg"])
def test_kitti(tmp_path: Path, below: str, photos: str, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("000000", "000001", "000002"):
        write(tmp_path / below / "label_2" / f"{name}.txt", KITTI.encode() if name == "000000" else b"")
    with pytest.raises(SourceError, match=r"none of its photos \(3\) is in .*image_2"):
        read_truth(f"kitti:{tmp_path}")
    for name in ("000000", "000001"):
        photo(tmp_path / below / photos.format(name), 370, 1224)
    found = read_truth(f"kitti:{tmp_path}")
    assert (found.benchmark, found.has_masks) == ("KITTI", False)
    assert found.images[0] == (1, str(tmp_path / below / photos.format("000000")))
    name = Path(photos.format("000000")).name
    assert size_of(found, name) == (370, 1224)
    assert objects_of(found, name) == [
        ([587.01, 173.33, 27.11, 26.79], 0),
        ([712.4, 143, 98.33, 164.92], 0),
        ([503.89, 169.71, 86.72, 20.42], 1),
        ([0, 0, 10, 10], 1),
    ]
    assert len(found.images) == 2
    assert "1 of 3 photos is not in" in caplog.text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Car 0.00 0 -1.58 587.01 173.33 614.12", r"000000\.txt, line 2: a label has a type and at least 7 numbers"),
        ("Car 0.00 0 -1.58 587.01 173.33 nan 2", r"000000\.txt, line 2: the box must be a number, not 'nan'"),
        ("Car 0.00 0 -1.58 587.01 173.33 14 200", r"000000\.txt, line 2: its box ends before it begins"),
    ],
)
def test_damaged_kitti(tmp_path: Path, line: str, message: str, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "label_2" / "000000.txt", (KITTI.splitlines()[0] + "\n" + line).encode())
    photo(tmp_path / "image_2" / "000000.png", 370, 1224)
    assert len(objects_of(read_truth(f"kitti:{tmp_path}"), "000000.png")) == 1
    assert "1 of 2 lines left out" in caplog.text
    assert re.search(message, caplog.text)
    write(tmp_path / "label_2" / "000000.txt", line.encode())
    with pytest.raises(SourceError, match=message.replace("line 2", "line 1")):
        read_truth(f"kitti:{tmp_path}")


def test_a_label_file_of_kitti_that_is_no_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "label_2" / "000000.txt", b"\xff\xfe\x00")
    write(tmp_path / "label_2" / "000001.txt", KITTI.encode())
    photo(tmp_path / "image_2" / "000001.png", 370, 1224)
    assert len(read_truth(f"kitti:{tmp_path}").images) == 1
    assert "1 of 2 files left out: 1 unreadable" in caplog.text


def test_no_kitti(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"has no label_2/\*\.txt: give the folder"):
        read_truth(f"kitti:{tmp_path}")


# --- Open Images ------------------------------------------------------------------------------------------------------

CSV = """ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside
0001eeaf4aed83f9,xclick,/m/0cmf2,1,0.022673031,0.9642005,0.07103825,0.80054647,0,0,0,0,0
000595fe6fee6369,xclick,/m/02wbm,1,0.25,0.75,0.5,1.0,0,0,1,0,0
0001eeaf4aed83f9,xclick,/m/01g317,1,0.0,0.5,0.0,0.1,0,0,0,0,0
"""


def test_open_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write(tmp_path / "validation-annotations-bbox.csv", CSV.encode())
    with pytest.raises(SourceError, match=r"none of its photos \(2\) is in .*, for example .*/0001eeaf4aed83f9\.jpg"):
        read_truth(f"openimages:{file}")
    photo(tmp_path / "validation" / "0001eeaf4aed83f9.jpg", 683, 1024)
    photo(tmp_path / "validation" / "000595fe6fee6369.jpg", 400, 800)
    found = read_truth(f"openimages:{file}")
    assert (found.benchmark, found.has_masks, found.images_root) == ("OpenImages", False, str(tmp_path / "validation"))
    assert objects_of(found, "0001eeaf4aed83f9.jpg") == [
        ([round(0.022673031 * 1024, 4), round(0.07103825 * 683, 4), 964.1241, 498.2541], 0),
        ([0, 0, 512, 68.3], 0),
    ]
    assert objects_of(found, "000595fe6fee6369.jpg") == [([200, 200, 400, 200], 1)]
    (tmp_path / "validation").rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "000595fe6fee6369.jpg").unlink()
    found = read_truth(f"openimages:{file}", str(tmp_path / "elsewhere"))
    assert [Path(path).name for _, path in found.images] == ["0001eeaf4aed83f9.jpg"]
    assert "1 of 2 photos is not in" in caplog.text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.25", "25", "line 3: XMin, YMin, XMax and YMax are fractions"),
        ("0.25,", ",", "line 3: XMin must be a number, not ''"),
        ("0.25,0.75", "0.85,0.75", "line 3: its box ends before"),
        ("000595fe6fee6369", "../x", "line 3: ImageID is '../x'"),
    ],
)
def test_damaged_open_images(
    tmp_path: Path, old: str, new: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path / "boxes.csv", CSV.replace(old, new).encode())
    photo(tmp_path / "0001eeaf4aed83f9.jpg", 683, 1024)
    assert len(objects_of(read_truth(f"openimages:{file}"), "0001eeaf4aed83f9.jpg")) == 2
    assert "1 of 3 rows left out" in caplog.text
    assert re.search(message, caplog.text)
    lines = CSV.replace(old, new).splitlines()
    write(file, "\n".join([lines[0], lines[2]]).encode())
    with pytest.raises(SourceError, match=message.replace("line 3", "line 2")):
        read_truth(f"openimages:{file}")


def test_what_is_no_file_of_open_images(tmp_path: Path) -> None:
    file = write(tmp_path / "boxes.csv", CSV.splitlines()[0].encode())
    with pytest.raises(SourceError, match="has no boxes"):
        read_truth(f"openimages:{file}")
    write(file, CSV.replace(",IsGroupOf", ",Group").encode())
    with pytest.raises(SourceError, match="has no column IsGroupOf"):
        read_truth(f"openimages:{file}")
    write(file, CSV.splitlines()[0].encode() + b"\n" + b"x" * 200_000)
    with pytest.raises(SourceError, match=r"none of its 1 rows can be used: .* line 2: field larger than field limit"):
        read_truth(f"openimages:{file}")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (b"x" * 200_000, "line 2: field larger than field limit"),
        (b"caf\xe9,xclick,/m/0cmf2,1,0,1,0,1,0,0,0,0,0", "line 2 is not UTF-8"),
        (b'"0001eeaf4aed83f9,xclick,/m/0cmf2,1,0,1,0,1,0,0,0,0,0', "line 2: a quote is not closed"),
    ],
)
def test_a_row_of_open_images_that_cannot_be_read(
    row: bytes, message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    head, *rows = CSV.encode().splitlines()
    photo(tmp_path / "0001eeaf4aed83f9.jpg", 683, 1024)
    file = write(tmp_path / "boxes.csv", b"\n".join([head, row, *rows]))
    assert len(objects_of(read_truth(f"openimages:{file}"), "0001eeaf4aed83f9.jpg")) == 2
    assert f"1 of 4 rows left out: 1 unreadable, such as {file}, {message}" in caplog.text


@pytest.mark.parametrize("off", ["1.0000002", "1.0004", "-0.0000001"])
def test_fractions_that_rounding_took_out_of_the_image(tmp_path: Path, off: str) -> None:
    old, box = ("0.5,1.0,", [200, 200, 400, 200]) if off[0] == "1" else ("0.5,1.0", [200, 0, 400, 400])
    new = f"0.5,{off}," if off[0] == "1" else f"{off},1.0"
    file = write(tmp_path / "boxes.csv", CSV.replace(old, new).encode())
    photo(tmp_path / "000595fe6fee6369.jpg", 400, 800)
    assert objects_of(read_truth(f"openimages:{file}"), "000595fe6fee6369.jpg") == [(box, 1)]


# --- COCO and what is like it -----------------------------------------------------------------------------------------


def square(image_id: int, number: int, left: int = 10, **fields: Any) -> dict[str, Any]:
    right = left + 20
    polygon = [[left, 10, right, 10, right, 30, left, 30]]
    annotation = {"id": number, "image_id": image_id, "category_id": 3, "bbox": [left, 10, 20, 20], "area": 400}
    return annotation | {"segmentation": polygon, "iscrowd": 0} | fields


def coco(*names: str, **fields: Any) -> dict[str, Any]:
    images = [{"id": 40 + i, "file_name": name, "height": 60, "width": 90} for i, name in enumerate(names)]
    return {"images": images, "annotations": [square(40 + i, i + 1, **fields) for i in range(len(names))]}


def saved(path: Path, document: Any) -> str:
    return str(write(path, json.dumps(document).encode()))


def test_coco(tmp_path: Path) -> None:
    file = saved(tmp_path / "annotations" / "instances_val2017.json", coco("000000000139.jpg"))
    for spec in (f"coco:{file}", file):
        found = read_truth(spec)
        assert (found.benchmark, found.has_masks, found.max_detections) == ("COCO val2017", True, 100)
    photo(tmp_path / "val2017" / "000000000139.jpg", 60, 90)
    assert read_truth(file).images == [(40, f"{tmp_path}/val2017/000000000139.jpg")]
    assert read_truth(file, str(tmp_path / "x")).images == [(40, f"{tmp_path}/x/000000000139.jpg")]
    own = saved(tmp_path / "own.json", coco("a.jpg"))
    assert read_truth(own).benchmark == "", "somebody's own data set has no published figures"


def test_what_exists_is_a_file_whatever_colons_it_has(
    tmp_path: Path, voc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("run:3.json", "kitti:epoch=3,a.json", "sweep:7/own.json"):
        saved(tmp_path / name, coco("a.jpg"))
        assert len(read_truth(name).truth.images) == 1
        assert len(read_truth(f"coco:{name}").truth.images) == 1
    saved(tmp_path / "x.json:v2.json", coco("a.jpg", "b.jpg"))
    assert len(read_truth("coco20k:x.json:v2.json").truth.images) == 2
    voc.rename(tmp_path / "VOC:test")
    assert len(read_truth("voc:VOC:test").truth.images) == 2
    assert len(read_truth("voc:VOC:test:test").truth.images) == 1


def test_a_coco_file_without_masks_has_boxes(tmp_path: Path) -> None:
    document = coco("a.jpg", "b.jpg")
    for annotation in document["annotations"]:
        del annotation["segmentation"], annotation["area"]
    found = read_truth(saved(tmp_path / "boxes.json", document))
    assert not found.has_masks
    assert found.truth.objects(40) == [
        {"id": 1, "category": 3, "area": 400, "bbox": [10, 10, 20, 20], "iscrowd": 0, "ignore": 0}
    ]
    document["annotations"][0]["segmentation"] = [[1, 1, 5, 1, 5, 5]]
    found = read_truth(saved(tmp_path / "mixed.json", document))
    assert found.has_masks
    assert [len(found.truth.objects(id_)) for id_ in found.truth.images] == [1, 0], "of one with a mask"


def test_coco20k(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = [f"COCO_train2014_{i:012d}.jpg" for i in (9, 25, 30)]
    file = saved(tmp_path / "annotations" / "instances_train2014.json", coco(*names))
    for listed in (f"train2014/{names[2]}\n{names[0]}\n", json.dumps([names[0], names[2]])):
        ending = "json" if listed.startswith("[") else "txt"
        list_file = write(tmp_path / f"coco_20k_filenames.{ending}", listed.encode())
        found = read_truth(f"coco20k:{file}:{list_file}")
        assert (found.benchmark, found.has_masks) == ("COCO20K", True)
        assert [image["file_name"] for image in found.truth.images.values()] == [names[0], names[2]]
        assert [len(found.truth.objects(id_)) for id_ in found.truth.images] == [1, 1]
    assert len(read_truth(f"coco20k:{file}").truth.images) == 3, "without a list the file is the subset already"
    for odd, ending in (
        (b'["COCO_val2014_000000000042.jpg", null, 7, "caf\xe9", "COCO_train2014_000000000009.jpg"]', "json"),
        (b"COCO_val2014_000000000042.jpg\ncaf\xe9\nCOCO_train2014_000000000009.jpg\n", "txt"),
    ):
        found = read_truth(f"coco20k:{file}:{write(tmp_path / f'odd.{ending}', odd)}")
        assert [image["file_name"] for image in found.truth.images.values()] == [names[0]]
        assert "1 unknown, such as COCO_val2014_000000000042.jpg, which" in caplog.text
        assert ("3 no name, such as entry 2, None" if ending == "json" else "1 no name, such as line 2") in caplog.text
        caplog.clear()
    with pytest.raises(SourceError, match=r"none of its 1 names can be used: 1 unknown, such as x\.jpg"):
        read_truth(f"coco20k:{file}:{write(tmp_path / 'odd.txt', b'x.jpg')}")
    with pytest.raises(SourceError, match=r"none of its 1 names can be used: 1 no name, such as entry 1, None"):
        read_truth(f"coco20k:{file}:{write(tmp_path / 'odd.json', b'[null]')}")
    with pytest.raises(SourceError, match="must be a list of names"):
        read_truth(f"coco20k:{file}:{write(tmp_path / 'odd.json', b'{}')}")
    with pytest.raises(SourceError, match="lists no images"):
        read_truth(f"coco20k:{file}:{write(tmp_path / 'odd.txt', b'')}")


def test_lvis(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No file names but URLs, no iscrowd, and lists of categories an image."""
    document = coco("x.jpg", "y.jpg")
    for image, where in zip(
        document["images"], ("val2017/000000397133.jpg", "train2017/000000037777.jpg"), strict=True
    ):
        del image["file_name"]
        image |= {"coco_url": f"http://images.cocodataset.org/{where}", "neg_category_ids": [3], "flickr_url": ""}
    for annotation in document["annotations"]:
        del annotation["iscrowd"]
    photo(tmp_path / "coco" / "val2017" / "000000397133.jpg", 60, 90)
    found = read_truth(f"lvis:{saved(tmp_path / 'coco' / 'annotations' / 'lvis_v1_val.json', document)}")
    assert (found.benchmark, found.has_masks, found.max_detections) == ("LVIS", True, 300)
    assert found.images == [
        (40, f"{tmp_path}/coco/val2017/000000397133.jpg"),
        (41, f"{tmp_path}/coco/train2017/000000037777.jpg"),
    ]
    assert objects_of(found, "val2017/000000397133.jpg") == [([10, 10, 20, 20], 0)]
    cocofied = saved(tmp_path / "coco" / "annotations" / "cocofied.json", coco("val2017/000000397133.jpg"))
    assert read_truth(f"lvis:{cocofied}").images == [(40, f"{tmp_path}/coco/val2017/000000397133.jpg")]
    del document["images"][0]["coco_url"]
    assert len(read_truth(f"lvis:{saved(tmp_path / 'odd.json', document)}").images) == 1
    assert "1 of 2 images left out: 1 odd, such as an image has no" in caplog.text
    del document["images"][1]["coco_url"]
    with pytest.raises(SourceError, match='an image has no "file_name"'):
        read_truth(f"lvis:{saved(tmp_path / 'bad.json', document)}")


@pytest.mark.parametrize("odd", [None, 3, {"id": 77}, {"file_name": "z.jpg"}, {"id": "x", "file_name": "z.jpg"}])
@pytest.mark.parametrize("name", ["coco", "lvis", "uvo", "objects365", "voc"])
def test_an_odd_image_does_not_cost_the_others(
    tmp_path: Path, name: str, odd: Any, caplog: pytest.LogCaptureFixture
) -> None:
    document = coco("a.jpg", "b.jpg")
    document["images"].insert(1, odd)
    assert len(read_truth(f"{name}:{saved(tmp_path / 'odd.json', document)}").images) == 2
    assert "1 of 3 images left out: 1 odd" in caplog.text


def test_sizes_that_a_file_lacks_come_from_the_photos(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    document = coco("a.jpg", "b.jpg", "c.jpg")
    for image in document["images"][1:]:
        image |= {"height": None, "width": 0}
    photo(tmp_path / "b.jpg", 60, 90)
    found = read_truth(saved(tmp_path / "truth.json", document))
    assert [size_of(found, name) for name in ("a.jpg", "b.jpg")] == [(60, 90)] * 2
    assert len(found.images) == 2
    assert "1 of 3 images left out: 1 without a size, such as c.jpg" in caplog.text


def test_uvo(tmp_path: Path) -> None:
    rle = coco_mask.encode(np.asfortranarray(np.pad(np.ones((20, 20), np.uint8), ((10, 30), (10, 60)))))
    document = coco("--jx3KUvqKU_0.png", segmentation={"size": [60, 90], "counts": rle["counts"].decode()})
    photo(tmp_path / "all_UVO_frames" / "--jx3KUvqKU_0.png", 60, 90)
    found = read_truth(f"uvo:{saved(tmp_path / 'UVO_frame_val.json', document)}")
    assert (found.benchmark, found.has_masks) == ("UVO", True)
    assert found.images == [(40, f"{tmp_path}/all_UVO_frames/--jx3KUvqKU_0.png")]


def test_objects365(tmp_path: Path) -> None:
    document = coco("images/v1/patch8/objects365_v1_00420917.jpg", isfake=0, isreflected=0)
    for annotation in document["annotations"]:
        del annotation["segmentation"]
    document["annotations"].append(document["annotations"][0] | {"id": 9, "iscrowd": 1, "bbox": [0, 0, 50.5, 20]})
    found = read_truth(f"objects365:{saved(tmp_path / 'zhiyuan_objv2_val.json', document)}")
    assert (found.benchmark, found.has_masks) == ("Objects365", False)
    assert objects_of(found, "images/v1/patch8/objects365_v1_00420917.jpg") == [
        ([10, 10, 20, 20], 0), ([0, 0, 50.5, 20], 1),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["voc", "clipart", "watercolor", "comic", "kitti", "openimages", "objects365"])
def test_conversions_to_coco_are_scored_by_boxes(tmp_path: Path, name: str) -> None:
    """CutLER's files: COCO instances, some with boxes drawn as polygons."""
    found = read_truth(f"{name}:{saved(tmp_path / 'traintest_cls_agnostic.json', coco('JPEGImages/1.jpg'))}")
    assert (found.benchmark, found.has_masks) == (FORMATS[name][0], False)


def test_sa1b(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in (223750, 223751):
        image = {"image_id": number, "width": 90, "height": 60, "file_name": f"sa_{number}.jpg"}
        mask = np.zeros((60, 90), np.uint8, order="F")
        mask[5:15, 10:40] = 1
        rle = coco_mask.encode(mask)
        one = {
            "bbox": [10, 5, 30, 10], "area": 300, "segmentation": {"size": [60, 90], "counts": rle["counts"].decode()},
            "predicted_iou": 0.92, "point_coords": [[20, 7]], "crop_box": [0, 0, 90, 60], "id": 5 * number,
            "stability_score": 0.98,
        }  # fmt: skip
        saved(tmp_path / f"sa_{number}.json", {"image": image, "annotations": [one]})
    found = read_truth(f"sa1b:{tmp_path}")
    assert (found.benchmark, found.has_masks) == ("SA-1B", True)
    assert found.images == [(223750, f"{tmp_path}/sa_223750.jpg"), (223751, f"{tmp_path}/sa_223751.jpg")]
    assert coco_mask.area(found.truth.objects(223751)[0]["segmentation"]) == 300
    saved(tmp_path / "sa_1.json", {"annotations": []})
    assert len(read_truth(f"sa1b:{tmp_path}").images) == 2
    assert "1 of 3 files left out" in caplog.text
    saved(tmp_path / "sa_9.json", json.loads((tmp_path / "sa_223751.json").read_text()))
    found = read_truth(f"sa1b:{tmp_path}")
    assert [len(found.truth.objects(id_)) for id_ in found.truth.images] == [1, 1]
    assert f"of an id twice, such as {tmp_path}/sa_9.json, whose image_id 223751 {tmp_path}/sa_223751" in caplog.text
    saved(tmp_path / "bad" / "sa_1.json", {"annotations": []})
    with pytest.raises(SourceError, match=r'sa_1\.json is no file of SA-1B: it has no "image"'):
        read_truth(f"sa1b:{tmp_path / 'bad'}")
    with pytest.raises(SourceError, match="holds no JSON file"):
        read_truth(f"sa1b:{tmp_path / 'none'}")


def test_what_is_no_format(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"there is no format 'cityscapes'; known: coco, coco20k, lvis"):
        read_truth("cityscapes:/data")
    with pytest.raises(SourceError, match="say where the file or folder is, voc:PATH"):
        read_truth("voc:")
    with pytest.raises(SourceError, match=r"^\S+a:b\.json cannot be read"):
        read_truth(str(tmp_path / "a:b.json"))
    with pytest.raises(SourceError, match=r"half\.json is not JSON"):
        read_truth(str(write(tmp_path / "half.json", b"{")))
    with pytest.raises(SourceError, match='it has no list "annotations" of objects'):
        read_truth(saved(tmp_path / "half.json", coco("a.jpg") | {"annotations": [3]}))


# --- scoring boxes ----------------------------------------------------------------------------------------------------


def boxes_data(seed: int, n: int = 12) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Boxes, crowds among them, and detections that hit some of them more or less."""
    rng = np.random.default_rng(seed)
    dataset: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    found = []
    for i in range(n):
        dataset["images"].append({"id": i + 1, "file_name": f"{i}.jpg", "height": 400, "width": 600})
        for _ in range(int(rng.integers(0, 7))):
            box = np.round([*rng.uniform(0, 300, 2), *rng.uniform(8, 280, 2)], 2)
            number = len(dataset["annotations"]) + 1
            dataset["annotations"].append(
                {"id": number, "image_id": i + 1, "category_id": int(rng.integers(1, 4)), "bbox": box.tolist(),
                 "area": float(box[2] * box[3]), "iscrowd": int(rng.random() < 0.15)}
            )  # fmt: skip
            for _ in range(int(rng.integers(0, 4))):
                moved = box + rng.normal(0, 0.12, 4) * box[[2, 3, 2, 3]]
                moved[2:] = np.maximum(moved[2:], 1)
                found.append(
                    {"image_id": i + 1, "category_id": 1, "bbox": moved.tolist(), "score": float(rng.random())}
                )
        for _ in range(400 if i == 0 else 2):
            box = [*rng.uniform(0, 300, 2), *rng.uniform(8, 280, 2)]
            found.append({"image_id": i + 1, "category_id": 1, "bbox": box, "score": float(rng.random())})
    return dataset, found


def pycocotools_boxes(dataset: dict[str, Any], found: list[dict[str, Any]], limit: int) -> dict[str, float]:
    dataset = copy.deepcopy(dataset)
    dataset["categories"] = [{"id": 1, "name": "object"}]
    for annotation in dataset["annotations"]:
        annotation["category_id"] = 1
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dataset
        truth.createIndex()
        scored = COCOeval(truth, truth.loadRes(copy.deepcopy(found)), "bbox")
        scored.params.maxDets = sorted({1, 10, 100, limit, 1000})
        scored.evaluate()
        scored.accumulate()
    precision, recall = scored.eval["precision"], scored.eval["recall"]
    areas, last = {"": 0, "_small": 1, "_medium": 2, "_large": 3}, scored.params.maxDets.index(limit)
    values = {f"box_AP{name}": precision[..., area, last] for name, area in areas.items()}
    values |= {"box_AP50": precision[0, ..., 0, last], "box_AP75": precision[5, ..., 0, last]}
    values |= {f"box_AR{n}": recall[..., 0, i] for i, n in enumerate(scored.params.maxDets)}
    values |= {f"box_AR{name}": recall[..., area, last] for name, area in areas.items() if name}
    values |= {f"box_recall50{name}": recall[0, ..., area, last] for name, area in areas.items()}
    return {name: value[value > -1].mean() if (value > -1).any() else np.nan for name, value in values.items()}


@pytest.mark.parametrize("limit", [100, 300])
@pytest.mark.parametrize("seed", range(3))
def test_pycocotools_gives_the_same_for_boxes_alone(seed: int, limit: int) -> None:
    dataset, found = boxes_data(seed)
    truth = Truth(dataset, masks=False)
    ids = [image["id"] for image in dataset["images"]]
    ours = score_detections(truth, found, ids, iou_types=["bbox"], max_detections=limit)
    theirs = pycocotools_boxes(dataset, found, limit)
    assert 0.01 < theirs["box_AP"] < 0.9
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, abs=1e-9, nan_ok=True), name


def test_the_limit_matters() -> None:
    """An object that the 101st detection finds: LVIS counts it."""
    dataset = coco("a.jpg")
    truth = Truth(dataset, masks=False)
    wrong = [{"image_id": 40, "bbox": [60, 40, 5, 5], "score": 0.9} for _ in range(100)]
    found = [*wrong, {"image_id": 40, "bbox": [10, 10, 20, 20], "score": 0.5}]
    few, many = (score_detections(truth, found, [40], iou_types=["bbox"], max_detections=n) for n in (100, 300))
    assert (few["box_AR100"], few["box_AP"]) == (0, 0)
    assert (many["box_AR100"], many["box_AR300"]) == (0, 1)
    assert many["box_AP"] == pytest.approx(1 / 101)
    assert "box_AR300" not in few
    with pytest.raises(ConfigError, match="max_detections is 50: it must be 100 or 300"):
        score_detections(truth, found, [40], iou_types=["bbox"], max_detections=50)


def test_masks_cannot_be_scored_against_boxes() -> None:
    dataset, found = boxes_data(0)
    with pytest.raises(ConfigError, match=r'has boxes and no masks: score boxes alone, iou_types=\("bbox",\)'):
        evaluate(Truth(dataset, masks=False), found, [1])


def test_a_run_is_scored_by_boxes_where_the_truth_has_no_masks(tmp_path: Path) -> None:
    photo(tmp_path / "photos" / "a.jpg", 60, 90)
    photo(tmp_path / "photos" / "b.jpg", 60, 90)
    document = coco("a.jpg", "b.jpg")
    import_coco(saved(tmp_path / "pseudo.json", document), tmp_path / "run", str(tmp_path / "photos"))
    document["annotations"][1]["bbox"] = [10, 10, 24, 20]  # an IoU of 20 / 24
    for annotation in document["annotations"]:
        del annotation["segmentation"]
    file = saved(tmp_path / "truth.json", document)
    command = ["evaluate", str(tmp_path / "run"), "--truth", f"objects365:{file}", "--json", str(tmp_path / "out.json")]
    done = CliRunner().invoke(cli.main, [*command, "--bootstrap", "0"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "mask_AP" not in done.output
    facts = json.loads((tmp_path / "out.json").read_text())
    assert facts["max_detections"] == 100
    assert facts["run"]["box_AR100"]["value"] == pytest.approx((10 + 7) / 20), "one at all thresholds, one up to 0.80"
    lvis = CliRunner().invoke(
        cli.main, ["evaluate", str(tmp_path / "run"), "--truth", f"lvis:{file}", "--bootstrap", "0"]
    )
    assert "box_AR300" in lvis.output


def test_numbers_that_reading_gave_are_no_ids(voc: Path, tmp_path: Path) -> None:
    """The images of VOC are numbered when they are read: 1 is not the COCO image 1 of the run."""
    for name in ("other.jpg", "000005.jpg"):
        photo(tmp_path / "photos" / name, 375, 500)
    document = coco("other.jpg", "000005.jpg")
    document["images"] = [{**image, "height": 375, "width": 500} for image in document["images"]]
    for number, image in enumerate(document["images"], start=1):
        for annotation in document["annotations"]:
            annotation["image_id"] = number if annotation["image_id"] == image["id"] else annotation["image_id"]
        image["id"] = number
    import_coco(saved(tmp_path / "pseudo.json", document), tmp_path / "run", str(tmp_path / "photos"))
    command = ["evaluate", str(tmp_path / "run"), "--truth", f"voc:{voc}:trainval", "--bootstrap", "0"]
    done = CliRunner().invoke(cli.main, command, catch_exceptions=False)
    assert (done.exit_code, "images  1 scored; 1 of the run not in the truth" in done.output) == (0, True), done.output


def test_a_name_counts_for_more_than_an_id(tmp_path: Path) -> None:
    """A truth that lists one of the photos, under the id that another has in the run."""
    for name in ("a.jpg", "b.jpg"):
        photo(tmp_path / "photos" / name, 60, 90)
    document = coco("a.jpg", "b.jpg")
    import_coco(saved(tmp_path / "pseudo.json", document), tmp_path / "run", str(tmp_path / "photos"))
    first, second = document["images"]
    document["images"] = [{**second, "id": first["id"]}]
    document["annotations"] = [one for one in document["annotations"] if one["image_id"] == first["id"]]
    command = ["evaluate", str(tmp_path / "run"), "--truth", str(saved(tmp_path / "t.json", document))]
    done = CliRunner().invoke(cli.main, [*command, "--bootstrap", "0"], catch_exceptions=False)
    assert (done.exit_code, "images  1 scored; 1 of the run not in the truth" in done.output) == (0, True), done.output
