"""Run folders, archives and URLs made by somebody who means harm, or by accident: nothing is executed, nothing is
written elsewhere, no secret is kept.
"""

import ast
import io
import json
import logging
import os
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from support import ROOT
from support.sample_run import CONFIG, GRID, do_shard, launch, sample_manifest, sample_record
from support.tiny_method import draw_photos, in_place_of_models, tiny_method

from pipeline.cli import main
from pipeline.errors import ConfigError, ImageError, SourceError, StoreError
from pipeline.images.manifest import ImageRef, Manifest, safe_id
from pipeline.images.photos import load_photo
from pipeline.images.sources import list_images
from pipeline.results.instance_file import ShardFile, write_shard
from pipeline.results.instances import counts_of
from pipeline.runs.launch import Launch
from pipeline.runs.ledger import Outcome
from pipeline.runs.provenance import new_attempt
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.status import status_of
from pipeline.runs.verify import verify_run
from pipeline.storage.array_file import ArrayFile
from pipeline.storage.files_at import files_at
from pipeline.storage.locations import redacted, secret_in
from pipeline.views.export import export_coco, export_masks, export_overlays
from pipeline.wording import printable

SECRET = "hunter2-do-not-tell"
SECRET_URLS = [
    f"https://user:{SECRET}@host/photos/",
    f"s3://key:{SECRET}@bucket/photos",
    f"https://host/a.txt?X-Amz-Credential=AKIA&X-Amz-Signature={SECRET}",
    f"https://host/a.txt?sv=2024&sig={SECRET}",
    f"https://host/a.txt?page=1&access_token={SECRET}",
    f"gs://bucket/a.txt?X-Goog-Signature={SECRET}",
    f"https://host/a.txt?AWSAccessKeyId=AKIA&Signature={SECRET}",
]


class Payload:
    """Unpickling it leaves a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.file, "executed")


# --- nothing is executed ----------------------------------------------------------------------------------------------


def calls_of(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def keyword_of(call: ast.Call, name: str) -> object:
    return next((ast.literal_eval(k.value) for k in call.keywords if k.arg == name), None)


@pytest.mark.parametrize("package", ["stages", "pipeline", "cluster"])
def test_no_reader_brings_objects_to_life(package: str) -> None:
    """No pickle and its relatives, no eval; NumPy and torch are told to refuse them."""
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        for name, call in calls_of(ast.parse(file.read_text())):
            function, where = name.rpartition(".")[2], f"{file.name}:{call.lineno}: {name}"
            if function in ("load", "loads") and name.partition(".")[0] in ("pickle", "cloudpickle", "dill", "joblib"):
                raise AssertionError(where)
            assert function not in ("Unpickler", "read_pickle"), where
            assert name not in ("eval", "exec", "marshal.loads", "shelve.open", "yaml.load"), where
            if name in ("np.load", "numpy.load"):
                assert keyword_of(call, "allow_pickle") is False, where
            if name == "torch.load":
                assert keyword_of(call, "weights_only") is True, where


def zipped(folder: Path) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder).as_posix())
    return packed.getvalue()


def unpacked_shard(folder: Path) -> Path:
    with zipfile.ZipFile(io.BytesIO(write_shard([sample_record("a.jpg")], GRID, {}))) as archive:
        archive.extractall(folder)
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("version", [2, 3])
def test_pickled_objects_in_a_shard_are_not_read(tmp_path: Path, version: int) -> None:
    """Objects in the place of an array: with pickle, as zarr's version 2 format keeps them, and as byte strings."""
    mark, folder = tmp_path / "mark", unpacked_shard(tmp_path / "zarr")
    payload = pickle.dumps(Payload(mark))
    array = folder / "masks/rle"
    if version == 2:
        (array / "zarr.json").unlink()
        meta = {"zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|O", "fill_value": None, "order": "C"}
        (array / ".zarray").write_text(json.dumps(meta | {"compressor": None, "filters": [{"id": "pickle"}]}))
        (array / "0").write_bytes(payload)
    else:
        kind = {"data_type": "variable_length_bytes", "fill_value": "", "codecs": [{"name": "vlen-bytes"}]}
        edit_json(array / "zarr.json", **kind)
        (array / "c").mkdir(exist_ok=True)
        (array / "c/0").write_bytes(numcodecs.VLenBytes().encode(np.array([payload], object)))
    with pytest.raises(StoreError, match="damaged"):
        ShardFile.open(zipped(folder), "shards/hostile.zarr.zip")
    assert not mark.exists()
    # The payload is a live one.
    pickle.loads(payload)
    assert mark.read_text() == "executed"


@pytest.mark.parametrize("name", ["pickle", "numcodecs.pickle", "python"])
def test_codec_that_runs_code_is_unknown(tmp_path: Path, name: str) -> None:
    mark, folder = tmp_path / "mark", unpacked_shard(tmp_path / "zarr")
    edit_json(folder / "masks/score/zarr.json", codecs=[{"name": name, "configuration": {}}])
    (folder / "masks/score/c").mkdir(exist_ok=True)
    (folder / "masks/score/c/0").write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(StoreError, match="damaged"):
        ShardFile.open(zipped(folder))
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore:Object at")
def test_archive_members_are_never_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard is a ZIP that is read in memory: names that would leave a folder have nowhere to go."""
    monkeypatch.chdir(tmp_path)
    packed = io.BytesIO(write_shard([sample_record("a.jpg")], GRID, {}))
    names = ["../../evil", "/evil", "a\\..\\..\\evil", "x" * 5000, "evil\x1b[2J"]
    with zipfile.ZipFile(packed, "a") as archive:
        for name in names:
            archive.writestr(name, b"evil")
    assert ShardFile.open(packed.getvalue()).ids == ("a.jpg",)
    path = tmp_path / "shard.zip"
    path.write_bytes(packed.getvalue())
    with ArrayFile.open(path) as arrays, pytest.raises(StoreError, match="damaged"):
        arrays.names()
    assert [file.name for file in tmp_path.iterdir()] == ["shard.zip"]


# --- tars -------------------------------------------------------------------------------------------------------------


def tar_with(path: Path, *members: tarfile.TarInfo) -> str:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"\0" * member.size))
    return str(path)


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, 64 if kind == tarfile.REGTYPE else 0
    return info


@pytest.mark.parametrize(
    "name",
    [
        "../x.png",
        "/etc/x.png",
        "a/../../x.png",
        "a\\..\\..\\x.png",
        "C:\\x.png",
        "\\\\host\\x.png",
        "./../x.png",
    ],
)
def test_tar_members_that_would_leave_a_folder(tmp_path: Path, name: str) -> None:
    """They are set aside, under ids that leave none, and no byte of them is read."""
    refs = list_images(tar_with(tmp_path / "a.tar", member("ok.png"), member(name))).refs
    good, bad = sorted(refs, key=lambda ref: bool(ref.trouble))
    assert (good.id, good.trouble) == ("a.tar/ok.png", None)
    assert "cannot be an image id" in str(bad.trouble)
    assert bad.id == f"a.tar/{safe_id(bad.id.removeprefix('a.tar/'))}"
    assert not {"..", ""} & set(bad.id.replace("\\", "/").split("/"))
    with pytest.raises(ImageError, match="odd_entry"):
        load_photo(bad)
    with pytest.raises(SourceError, match="cannot be an image id"):
        list_images(tar_with(tmp_path / "b.tar", member(name)))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_tar_members_that_are_no_files(tmp_path: Path, kind: bytes) -> None:
    listing = list_images(tar_with(tmp_path / "a.tar", member("x.png", kind, "/etc/passwd"), member("ok.png")))
    assert [ref.id for ref in listing.refs] == ["a.tar/ok.png"]


def test_tar_member_with_nul_and_a_very_long_one(tmp_path: Path) -> None:
    long = f"{'d' * 300}/{'x' * 2000}.png"
    listing = list_images(tar_with(tmp_path / "a.tar", member("evil.png\0.txt"), member(long)))
    assert {ref.id for ref in listing.refs} == {"a.tar/evil.png", f"a.tar/{long}"}


def test_tar_member_longer_than_the_tar(tmp_path: Path) -> None:
    """Its header promises more than there is: the image is set aside, no other bytes are taken for it."""
    listing = list_images(tar_with(tmp_path / "a.tar", member("a.png")))
    ref = listing.refs[0]
    beyond = ImageRef(ref.id, ref.uri, ref.offset, 1 << 40)
    with pytest.raises(Exception, match=r"too_large|truncated"):
        load_photo(beyond)


# --- names of images --------------------------------------------------------------------------------------------------


def run_with(url: Path, ids: list[str], *, stored: list[str] | None = None, photo: Path | None = None) -> RunFolder:
    manifest = Manifest([ImageRef(image_id, str(photo or "/data/none.jpg")) for image_id in ids], 100)
    run = RunFolder.create_or_open(url, CONFIG, manifest)
    records = [sample_record(image_id) for image_id in stored or [ref.id for ref in manifest.refs]]
    run.ledger.commit("00000", new_attempt(), Outcome(write_shard(records, GRID, {}), counts_of(records)))
    return run


def below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["../evil.jpg", "/tmp/evil.jpg", "a/../../evil.jpg", "..\\evil.jpg", "a\0b.jpg"])
def test_manifest_with_hostile_ids_is_refused(tmp_path: Path, name: str) -> None:
    """Forged whole: the parquet file and the digest in run.json agree."""
    run = RunFolder.create_or_open(tmp_path / "run", CONFIG, sample_manifest(1))
    manifest = sample_manifest(1)
    object.__setattr__(manifest.refs[0], "id", name)
    (tmp_path / "run/manifest.parquet").write_bytes(manifest.to_parquet_bytes())
    record = json.loads((tmp_path / "run/run.json").read_text())
    (tmp_path / "run/run.json").write_text(json.dumps(record | {"digest": manifest.digest}))
    run = RunFolder.open(tmp_path / "run")
    for export in (export_masks, export_overlays):
        with pytest.raises(StoreError, match=r"manifest.parquet.*delete it, then start the run again"):
            export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../evil.jpg", "/tmp/evil.jpg", "unknown.jpg", "a\0b.jpg"])
def test_shard_with_ids_of_its_own_is_refused(tmp_path: Path, name: str) -> None:
    (photo,) = draw_photos(tmp_path / "photos", 1)
    run = run_with(tmp_path / "run", ["a.jpg", "b.jpg"], stored=["a.jpg", name], photo=photo)
    with pytest.raises(StoreError, match=r"holds image .*the manifest does not.*cuts3d verify"):
        export_masks(run, tmp_path / "out")
    with pytest.raises(StoreError, match=r"holds image .*the manifest does not.*cuts3d verify"):
        export_overlays(run, tmp_path / "out")
    with pytest.raises(StoreError, match=r"holds image .*the manifest does not.*cuts3d verify"):
        export_coco(run, tmp_path / "out" / "coco.json")
    assert below(tmp_path / "out") <= {"a.png"}
    assert any("not those that the manifest has" in problem.message for problem in verify_run(run))


def test_odd_but_harmless_ids_are_exported_below_the_folder(tmp_path: Path) -> None:
    (photo,) = draw_photos(tmp_path / "photos", 1)
    long = f"{'d' * 300}/{'ü' * 400}.jpg"
    ids = [
        "a b/c\nd.jpg",
        "-rf.jpg",
        "~/x.jpg",
        "$(touch evil).jpg",
        "\x1b[2J.jpg",
        "..a/...jpg",
        long,
        long[:-4] + ".png",
    ]
    run = run_with(tmp_path / "run", ids, photo=photo)
    assert export_masks(run, tmp_path / "masks") == len(ids)
    assert len(below(tmp_path / "masks")) == len(ids)
    files = export_overlays(run, tmp_path / "overlays")
    assert len(set(files)) == len(ids)
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "run", "masks", "overlays"}
    # The same names every time, and no two images in one file.
    assert below(tmp_path / "overlays") == below(tmp_path / "masks")
    with Image.open(files[0]) as picture:
        assert picture.size == (80, 64)


def test_no_export_through_a_link_that_leaves_the_folder(tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", ["sub/a.jpg"])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="would be written outside"):
        export_masks(run, tmp_path / "out")
    assert below(tmp_path / "elsewhere") == set()


# --- run folders ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"counts": {"images": -1}},
        {"counts": {"images": "many"}},
        {"counts": {"images": 1e400}},
        {"counts": {"images": 4, "masks": 1, "quarantined": 0, "drops": {"\x1b]0;evil\x07": 1}}},
        {"counts": {"images": 4, "masks": 1, "quarantined": 0, "drops": ["x"]}},
        {"counts": {}},
        {"counts": None},
        {"seconds": {"ncut": float("nan")}},
        {"seconds": {"ncut": float("inf")}},
        {"seconds": {"ncut": -1.0}},
        {"seconds": []},
        {"wall": "long"},
        {"wall": -5},
        {"host": "\x1b[2Jevil"},
        {"host": "x" * 10_000},
        {"worker": ["a"]},
        {"finished": "yesterday"},
        {"finished": "2026-01-01T00:00:00"},
        {"versions": {"numpy": {"a": 1}}},
        {"shard": {"name": "shards/00000-a.zarr.zip", "bytes": -1, "sha256": "0" * 64}},
        {"shard": {"name": "shards/00000-a.zarr.zip", "bytes": 1, "sha256": "../.."}},
        {"shard": {"name": "/etc/passwd", "bytes": 1, "sha256": "0" * 64}},
        {"attempt": "../../../../tmp/evil"},
        {"attempt": None},
    ],
    ids=str,
)
def test_hostile_commit_records_are_damage(tmp_path: Path, change: dict[str, Any]) -> None:
    run = launch(str(tmp_path))
    path = tmp_path / "commits/00000.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    found = status_of(tmp_path)
    assert (found.done_shards, found.complete) == (2, False)
    assert "delete that file and start the run again" in found.damaged[0]
    assert printable("\n".join(found.lines())) == "\n".join(found.lines())
    with pytest.raises(StoreError, match=r"00000\.json .*damaged"):
        run.pending()


def test_very_deep_and_very_long_records(tmp_path: Path) -> None:
    launch(str(tmp_path))
    (tmp_path / "commits/00000.json").write_text("[" * 100_000)
    (tmp_path / "commits/00001.json").write_text('{"schema": ' + "9" * 10_000 + "}")
    found = status_of(tmp_path)
    assert found.done_shards == 1
    assert len(found.damaged) == 2


@pytest.mark.parametrize("name", ["shards", "commits", "quarantine"])
def test_gc_through_a_link_deletes_nothing_of_others(tmp_path: Path, name: str) -> None:
    """A folder of the run that is a link to somebody's home: only what a run itself leaves behind may go."""
    run = launch(str(tmp_path / "run"))
    home = tmp_path / "home"
    (tmp_path / "run" / name).rename(home)
    (tmp_path / "run" / name).symlink_to(home)
    theirs = ["letter.tmp", ".bashrc", ".swap.tmp", "a.json", "thesis.zarr.zip"]
    for file in theirs:
        (home / file).write_text("mine")
    kept = below(home)
    run.gc(min_age_s=0)
    assert below(home) == kept


@pytest.mark.parametrize("change", [{"images": "1"}, {"shards": None}, {"digest": 5}, {"versions": []}, {"created": 1}])
def test_hostile_run_json(tmp_path: Path, change: dict[str, Any]) -> None:
    launch(str(tmp_path))
    path = tmp_path / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(StoreError, match=r"run.json .*damaged"):
        RunFolder.open(tmp_path)


def test_names_do_not_steer_the_terminal(tmp_path: Path) -> None:
    assert printable("a\x1b[2Jb\u202ec\nd") == "a\\x1b[2Jb\\u202ec\nd"
    result = CliRunner().invoke(main, ["run", "--images", f"{tmp_path}/\x1b]0;evil\x07.txt", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "\x1b" not in result.output


# --- secrets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", SECRET_URLS)
def test_urls_with_secrets_are_refused_wherever_they_are_given(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    in_place_of_models(monkeypatch, lambda launch: tiny_method())
    draw_photos(tmp_path / "photos", 2)
    names = [str(path) for path in sorted((tmp_path / "photos").iterdir())]
    (tmp_path / "list.txt").write_text("\n".join([*names, url]))
    photos, out = str(tmp_path / "photos"), str(tmp_path / "run")
    commands = [
        ["run", "--images", url, "--out", out],
        ["run", "--images", str(tmp_path / "list.txt"), "--out", out],
        ["run", "--images", str(tmp_path / "list.txt"), "--root", url, "--out", out],
        ["run", "--images", photos, "--depth", f"maps:{url}", "--out", out],
        ["run", "--images", photos, "--features", f"vit={url}", "--out", out],
        ["run", "--images", photos, "--out", url],
        ["status", url],
        ["gc", url],
        ["evaluate", out, "--truth", url],
    ]
    with caplog.at_level(logging.DEBUG):
        assert CliRunner().invoke(main, ["run", "--images", photos, "--out", str(tmp_path / "run")]).exit_code == 0
        for command in commands:
            result = CliRunner().invoke(main, command)
            assert result.exit_code == 2, command
            assert isinstance(result.exception, SystemExit), command
            assert SECRET not in result.output + caplog.text, command
            assert "credentials through the environment" in result.output, command
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not any(SECRET.encode() in path.read_bytes() for path in files)


def test_what_is_no_secret() -> None:
    for url in (
        *("s3://bucket/run", "https://host/a.jpg?size=large&page=2", "sftp://user@host/photos", "/data/a?token=x@y"),
        *("https://host/a@b:c.jpg", "gs://bucket/monkey?keyword=sign", "https://host/x?sig="),
    ):
        assert secret_in(url) == "", url


def test_redacted() -> None:
    assert redacted(f"https://u:{SECRET}@host:8/a/b?sig={SECRET}#x") == "https://host:8/a/b"
    assert redacted("s3://bucket/run") == "s3://bucket/run"


def test_secrets_of_the_environment_are_in_nothing_that_a_run_writes_or_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    in_place_of_models(monkeypatch, lambda launch: tiny_method())
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "RAY_AUTH_TOKEN", "FSSPEC_S3_SECRET"):
        monkeypatch.setenv(name, SECRET)
    draw_photos(tmp_path / "photos", 3)
    (tmp_path / "photos/broken.jpg").write_bytes(b"no image")
    commands = [
        ["-v", "run", "--images", str(tmp_path / "photos"), "--out", str(tmp_path / "run")],
        ["run", "--until", "depth", "--out", str(tmp_path / "run")],
        *(["retry-quarantined"], ["status"], ["status", "--json"], ["info"], ["info", "--json"], ["verify"], ["gc"]),
        ["export", "--coco", str(tmp_path / "run/a.json"), "--overlays", str(tmp_path / "run/pictures")],
        ["gallery", "--out", str(tmp_path / "run/page.html")],
    ]
    said = ""
    with caplog.at_level(logging.DEBUG):
        for command in commands:
            out = [] if "--images" in command or "--until" in command else [str(tmp_path / "run")]
            result = CliRunner().invoke(main, [*command, *out])
            assert result.exit_code in (0, 1), result.output
            said += result.output
    assert "00000" in said + caplog.text
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 12
    assert not any(SECRET.encode() in path.read_bytes() for path in written)
    assert SECRET not in said + caplog.text


def test_run_folder_url_with_a_secret_is_not_opened() -> None:
    with pytest.raises(ConfigError, match=r"s3://bucket/run carries a password") as caught:
        files_at(f"s3://key:{SECRET}@bucket/run")
    assert SECRET not in str(caught.value)
    with pytest.raises(SourceError) as refused:
        Launch(images=f"https://u:{SECRET}@host/a.txt")
    assert SECRET not in str(refused.value)


def test_files_of_a_run_are_not_executable(tmp_path: Path) -> None:
    run = launch(str(tmp_path))
    do_shard(run, run.retry_shards(["000/4.jpg"])[0])
    assert not any(os.access(path, os.X_OK) for path in tmp_path.rglob("*") if path.is_file())
