"""What the recipes motion and cups take, and what they refuse in one line before anything is loaded."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from support.given_motion import write_clips
from support.labelled_run import labelled_run
from support.tiny_method import draw_photos

from pipeline.cli import command_line
from pipeline.errors import ConfigError, CutsError, StoreError
from pipeline.methods.cups.recipe import CUPS, MOTION, cups_lines, motion_lines, read_cups, read_motion
from pipeline.methods.cups.settings import absolute_launch, cups_settings, labelled_clips_of, motion_settings
from pipeline.methods.registry import entry_of, known_config, manifest_of
from pipeline.results.instance_kind import InstanceKind
from pipeline.runs.launch import Launch
from pipeline.runs.run_folder import RunFolder
from stages.motion.movers_config import MoversConfig
from stages.semantics.windows import WindowConfig

MODEL = f"{CUPS}.checkpoint=M"


def launch(*overrides: str, recipe: str = CUPS, **settings: str) -> Launch:
    return Launch("clips:clips.csv", recipe=recipe, overrides=overrides, settings=settings)


def test_options_change_what_they_name() -> None:
    recipe = read_motion(["motion.side=none", "motion.border=0", "motion.seed=7", "movers.background=released"])
    assert (recipe.motion.side, recipe.motion.border, recipe.motion.seed) == (None, 0, 7)
    assert recipe.movers == MoversConfig(background="released")
    both = read_cups([MODEL, "motion.seed=7", "movers.runs=3", f"{CUPS}.mirror=false", f"{CUPS}.windows.side=0.25"])
    assert (both.finding.motion.seed, both.finding.movers.runs) == (7, 3)
    assert both.labels is not None
    assert (both.labels.checkpoint, both.labels.mirror, both.labels.windows) == ("M", False, WindowConfig(side=0.25))
    assert "M" not in both.as_dict()["labels"].values()
    without = read_cups([MODEL, f"{CUPS}.windows=none"]).labels
    assert without is not None
    assert without.windows is None
    of_run = read_cups([f"{CUPS}.semantic=R", "motion.seed=7"])
    assert (of_run.semantic, of_run.labels, of_run.finding.motion.seed) == ("R", None, 7)
    assert read_cups([MODEL, f"{CUPS}.semantic=none"]).semantic == ""


def test_every_option_that_is_listed_is_taken() -> None:
    for lines, read in ((motion_lines(launch(recipe=MOTION)), read_motion), (cups_lines(launch()), read_cups)):
        for line in lines:
            assert line.words or ".crf" in line.path, line.path
            if line.path.startswith(("--", "features.", f"{CUPS}.checkpoint")):
                continue
            read([f"{line.path}={line.value}", *([MODEL] if read is read_cups else [])])
    paths = {line.path for line in cups_lines(launch())}
    assert {f"{CUPS}.checkpoint", f"{CUPS}.semantic", "movers.runs", "motion.side", "features.size"} <= paths
    assert f"{CUPS}.windows.metres" not in paths


@pytest.mark.parametrize(
    ("recipe", "overrides", "words"),
    [
        (MOTION, ["motion.side=20"], "motion.side must be at least 64 or none, got 20"),
        (MOTION, ["motion.border=0.5"], "motion.border must be in 0..0.4"),
        (MOTION, ["motion.seed=-1"], "motion.seed must be at least 0"),
        (MOTION, ["movers.runs=some"], "movers.runs is a number"),
        (MOTION, ["movers.speed=1"], "there is no 'speed' here; options: near, far"),
        (MOTION, ["movers.background=none"], "movers.background cannot be none"),
        (MOTION, ["movers"], "not of the form"),
        (MOTION, ["movers=on"], "its options are motion.… and movers.…"),
        (MOTION, [MODEL], "its options are motion.… and movers.…"),
        (MOTION, ["features.size=224"], "its options are motion.… and movers.…"),
        (CUPS, [], "cups.checkpoint=MODEL, from `cuts3d train-semantic`, or --set cups.semantic=RUN"),
        (CUPS, ["depthg.checkpoint=M"], "its options are cups.…, motion.…, movers.…"),
        (
            CUPS,
            [MODEL, f"{CUPS}.chekpoint=M"],
            "cups.chekpoint: of cups.… there are checkpoint, mirror, overlap, refine, semantic, view, windows",
        ),
        (CUPS, [MODEL, f"{CUPS}.windows.metres=3"], "never reads cups.windows.metres, since the clip's camera says it"),
        (CUPS, [MODEL, f"{CUPS}.semantic=R"], "never reads cups.checkpoint, since cups.semantic is given"),
        (CUPS, [f"{CUPS}.semantic=R", f"{CUPS}.mirror=true"], "never reads cups.mirror, since cups.semantic"),
        (CUPS, [f"{CUPS}.semantic=R", "features.size=224"], "never reads features.size, since cups.semantic"),
        (CUPS, [MODEL, f"{CUPS}.refine.crf=none", f"{CUPS}.refine.side=64"], "never reads cups.refine.side"),
        (CUPS, [MODEL, "motion.side=20"], "motion.side must be at least 64"),
    ],
)
def test_wrong_options_are_refused_by_name(recipe: str, overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        (read_motion if recipe == MOTION else read_cups)(overrides)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (launch(recipe=MOTION, depth="zoedepth"), "recipe motion has no setting 'depth': it has motion"),
        (launch(recipe=MOTION, features="dinov2_vits14"), "has no setting 'features'"),
        (launch(MODEL, depth="zoedepth"), "recipe cups has no setting 'depth': it has motion, features"),
        (launch(f"{CUPS}.semantic=R", features="dinov2_vits14"), "recipe cups has no setting 'features'"),
        (launch(MODEL, "features.kind=keys"), "features.kind is the trained model's"),
        (launch(recipe=MOTION, motion="smoke"), "smoke"),
    ],
)
def test_settings_of_others_are_refused(one: Launch, words: str) -> None:
    with pytest.raises(CutsError, match=words):
        (motion_settings if one.recipe == MOTION else cups_settings)(one)


def test_what_is_known_before_anything_is_loaded(tmp_path: Path) -> None:
    motion = known_config(launch("movers.runs=2", recipe=MOTION), None)
    assert motion["recipe"]["movers"]["runs"] == 2
    run = labelled_run(tmp_path / "labels", {"a.png": np.zeros((64, 80), np.uint8)}, 3)
    of_run = launch(f"{CUPS}.semantic={run.url}")
    assert known_config(of_run, None)["semantic"]["recipe"] == "labelled"
    elsewhere = launch(f"{CUPS}.semantic=/not/here")
    assert known_config(elsewhere, None, files_here=False) == {"recipe": read_cups(elsewhere.overrides).as_dict()}
    assert entry_of(CUPS).reads(of_run) == ("motion",)
    assert entry_of(CUPS).reads(launch(MODEL)) == ("motion", "features")


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one = absolute_launch(launch("cups.checkpoint=model", "movers.runs=2"))
    assert one.overrides == (f"cups.checkpoint={tmp_path}/model", "movers.runs=2")
    for place, expected in (("runs/labels", f"{tmp_path}/runs/labels"), ("s3://b/labels", "s3://b/labels")):
        assert absolute_launch(launch(f"cups.semantic={place}")).overrides == (f"cups.semantic={expected}",)
    assert absolute_launch(launch(MODEL, "cups.semantic=none")).overrides[1] == "cups.semantic=none"


def test_photos_alone_are_refused_before_anything_is_looked_at(tmp_path: Path) -> None:
    draw_photos(tmp_path / "photos", 2)
    for recipe, overrides in ((MOTION, ()), (CUPS, (MODEL,))):
        with pytest.raises(ConfigError, match=r"needs stereo video, and .*photos has photos alone: give --images"):
            manifest_of(Launch(str(tmp_path / "photos"), recipe=recipe, overrides=overrides))


@pytest.fixture
def clips(tmp_path: Path) -> str:
    return write_clips(tmp_path, {f"{i}.png": [np.full((64, 80, 3), i, np.uint8)] * 4 for i in range(3)})


def test_a_run_of_other_pictures_is_refused(clips: str, tmp_path: Path) -> None:
    labels = dict.fromkeys(("0.png", "2.png", "9.png"), np.zeros((64, 80), np.uint8))
    run = labelled_run(tmp_path / "labels", labels, 3)
    with pytest.raises(ConfigError, match=r"1 of 3 left pictures is not in cups.semantic=.*: 1\.png; make"):
        labelled_clips_of(Launch(clips, recipe=CUPS, overrides=(f"{CUPS}.semantic={run.url}",)))
    all_of_them = labelled_run(tmp_path / "more", {**labels, "1.png": labels["0.png"]}, 3)
    assert len(labelled_clips_of(Launch(clips, recipe=CUPS, overrides=(f"{CUPS}.semantic={all_of_them.url}",)))) == 3


def test_a_run_that_is_no_use_is_refused(clips: str, tmp_path: Path) -> None:
    labels = {f"{i}.png": np.zeros((64, 80), np.uint8) for i in range(3)}
    unfinished = labelled_run(tmp_path / "unfinished", labels, 3, leave_out=["00001"])
    with pytest.raises(StoreError, match=r"not finished, 1 of 2 shards missing. `cuts3d run --out .*resumes it"):
        cups_settings(launch(f"{CUPS}.semantic={unfinished.url}"))
    with pytest.raises(StoreError, match="is not a run"):
        cups_settings(launch(f"{CUPS}.semantic={tmp_path / 'nothing'}"))
    masks = RunFolder.create_or_open(
        tmp_path / "masks", {}, manifest_of(Launch(clips, recipe=MOTION)), result=InstanceKind.name
    )
    with pytest.raises(ConfigError, match=r"holds instance masks: cups.semantic is for semantic labels"):
        cups_settings(launch(f"{CUPS}.semantic={masks.url}"))


def test_recipes_lists_both_with_their_options() -> None:
    def said(*words: str) -> str:
        return CliRunner().invoke(command_line([]), ["recipes", *words]).output

    listed = said()
    assert "motion" in listed
    assert "panoptic labels from stereo video" in listed
    assert "movers.background = corrected" in said(MOTION)
    assert "cups.semantic = none" in said(CUPS)


def test_a_wrong_launch_is_refused_before_torch_is_loaded(clips: str, tmp_path: Path) -> None:
    code = (
        "import sys; from pipeline.engine.checks import checked_manifest; from pipeline.runs.launch import Launch\n"
        "launch = Launch(sys.argv[2], recipe='cups', overrides=('motion.side=1',))\n"
        "try: checked_manifest(sys.argv[1], launch, None, 'cpu')\n"
        "except ValueError as error: print(error, [n for n in ('torch', 'cv2') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "run", clips], capture_output=True, text=True, check=True
    )
    assert "motion.side must be at least 64" in done.stdout
    assert done.stdout.rstrip().endswith("[]")
