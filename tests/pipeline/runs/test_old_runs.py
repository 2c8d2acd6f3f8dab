"""Runs that an earlier version wrote open as they did, say what made them, and resume."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from support import ROOT

from pipeline.cli import command_line
from pipeline.commands.import_coco import import_coco
from pipeline.engine.run import run
from pipeline.errors import RunMismatchError
from pipeline.methods.registry import describe
from pipeline.runs.info import info_lines, info_of
from pipeline.runs.launch import Launch, last_launch
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.status import status_of
from pipeline.runs.verify import verify_run
from pipeline.views.export import export_coco

OLD = ROOT / "tests" / "data" / "old_runs"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(OLD, tmp_path / "old"))


@pytest.mark.parametrize(
    ("name", "method", "masks", "failed", "says"),
    [
        ("cuts", "cuts", 60, 1, "features     vit_small_patch14_dinov2.lvd142m tokens, 140 px, τ 0.2"),
        ("import", "coco_import", 60, 0, "min_score    0.0"),
        ("detector", "detector", 18, 1, "max_per_image 3"),
    ],
)
def test_they_open_and_say_what_made_them(
    name: str, method: str, masks: int, failed: int, says: str, old: Path, tmp_path: Path
) -> None:
    folder = RunFolder.open(old / name)
    assert (folder.method, folder.result) == (method, "instances")
    assert [problem for problem in verify_run(folder) if problem.severity == "error"] == []
    results = list(RunReader(folder))
    assert [result.id for result in results] == [ref.id for ref in folder.manifest.refs]
    assert sum(result.status == "quarantined" for result in results) == failed
    status = status_of(old / name)
    assert (status.complete, status.counts["masks"], status.quarantined) == (True, masks, failed)
    assert says in info_lines(info_of(old / name), describe)
    assert export_coco(folder, tmp_path / "masks.json") == masks
    theirs = {a["id"]: a["segmentation"] for a in json.loads((OLD / "masks.json").read_text())["annotations"]}
    ours = {a["id"]: a["segmentation"] for a in json.loads((tmp_path / "masks.json").read_text())["annotations"]}
    assert (ours == theirs) == (name != "detector"), "masks.json was exported from the run of cuts, and imported"


@pytest.mark.parametrize("name", ["cuts", "import", "detector"])
def test_commands_that_look_at_a_run_take_them(name: str, old: Path, tmp_path: Path) -> None:
    main = command_line([])
    for command in (["status"], ["info"], ["verify"], ["gallery", "--out", str(tmp_path / "page.html")]):
        done = CliRunner().invoke(main, [command[0], str(old / name), *command[1:]], catch_exceptions=False)
        set_aside = status_of(old / name).quarantined
        assert done.exit_code == (1 if set_aside else 0), done.output


def test_an_import_resumes(old: Path) -> None:
    before = RunFolder.open(old / "import").ledger.committed()
    (old / "import" / "commits" / "00001.json").unlink()
    assert not status_of(old / "import").complete
    forget_where_photos_were(old / "import", old / "photos")
    with pytest.raises(RunMismatchError, match=r"min_score: run has 0\.0, now 0\.5"):
        import_coco(str(old / "masks.json"), old / "import", str(old / "photos"), min_score=0.5, shard_size=3)
    summary = import_coco(str(old / "masks.json"), old / "import", str(old / "photos"), shard_size=3)
    assert (summary.complete, summary.images) == (True, 3)
    after = RunFolder.open(old / "import").ledger.committed()
    assert {key: commit.shard.sha256 for key, commit in after.items()} == {
        key: commit.shard.sha256 for key, commit in before.items()
    }


def forget_where_photos_were(run_folder: Path, photos: Path) -> None:
    """The manifest with today's places of the photos: an import refuses to mix two."""
    folder = RunFolder.open(run_folder)
    refs = [type(ref)(ref.id, str(photos / ref.id), coco_id=ref.coco_id) for ref in folder.manifest.refs]
    manifest = type(folder.manifest)(refs, folder.manifest.shard_size)
    assert manifest.digest == folder.digest
    (run_folder / "manifest.parquet").write_bytes(manifest.to_parquet_bytes())


def test_the_settings_of_the_last_launch_are_read(old: Path) -> None:
    launch = last_launch(old / "cuts")
    assert launch == Launch(
        images="photos",
        settings={
            "features": "dinov2_vits14=weights/dinov2_vits14_fp16.safetensors",
            "depth": "weights/fastdepth.onnx",
        },
        overrides=("features.size=140", "affinity.tau=0.2"),
        shard_size=3,
    )
    assert last_launch(old / "detector").overrides[0] == "detector.checkpoint=work/detector.pth"


@pytest.mark.slow
def test_cuts_resume_with_the_models_they_were_begun_with(old: Path, assets: Path) -> None:
    (old / "cuts" / "commits" / "00001.json").unlink()
    weights = assets / "weights"
    settings = {
        "features": f"dinov2_vits14={weights}/dinov2_vits14_fp16.safetensors",
        "depth": str(weights / "fastdepth.onnx"),
    }
    launch = Launch(
        str(old / "photos"), settings=settings, overrides=("features.size=140", "affinity.tau=0.2"), shard_size=3
    )
    summary = run(old / "cuts", launch, device="cpu")
    assert (summary.complete, summary.images, summary.counts["masks"]) == (True, 3, 30)
    assert [problem for problem in verify_run(RunFolder.open(old / "cuts")) if problem.severity == "error"] == []
