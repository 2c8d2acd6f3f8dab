"""Command lines that are wrong, each in one of the ways to get a path, a name or an option wrong; and quick ones that
only look. None of them needs torch, or anything else that takes seconds to import.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from pipeline.methods.cuts.settings import cuts_settings
from pipeline.runs.launch import Launch, keep_launch, listed_manifest
from pipeline.runs.run_folder import RunFolder
from support.stored_run import commit, random_record
from support.tiny_method import draw_photos

HEAVY = (
    *("torch", "timm", "onnxruntime", "onnx", "transformers", "ray", "mmdet", "mmengine", "mmcv"),
    *("zarr", "matplotlib", "open3d", "scipy.sparse", "scipy.ndimage", "huggingface_hub"),
)


@dataclass(frozen=True)
class Wrong:
    """words: of the command line, with names of `places` in braces. message: part of what is answered."""

    words: str
    message: str


NEW = "run --images {photos} --out {new}"
AGAIN = "run --out {run}"
DETECTOR = "--checkpoint {checkpoint}"
TRAIN = "train --run {run} --work-dir {new} --config tiny"

RUNS = (
    Wrong("run --images {nowhere} --out {new}", "nowhere: no such file or folder"),
    Wrong("run --images {empty} --out {new}", "no images found"),
    Wrong("run --images {list} --root {nowhere} --out {new}", "none of 1 image looked for exists"),
    Wrong("run --out {new}", "there is no run at"),
    Wrong("run --out {photos}", "there is no run at"),
    Wrong("run --images {photos} --out {file}", "Not a directory"),
    Wrong(f"{NEW} --recipe cuts3dd", "unknown recipe 'cuts3dd'; known: maskcut"),
    Wrong(f"{NEW} --set ncut.taau=1", "there is no 'taau' here; options:"),
    Wrong(f"{NEW} --set rounds.n=many --recipe maskcut", "rounds.n is a number (int), got 'many'"),
    Wrong(f"{NEW} --set local_cut.tau_knn=-1", "local_cut.tau_knn"),
    Wrong(f"{NEW} --set features.size=33", "size is 33: use a multiple of patch_size"),
    Wrong(f"{NEW} --set features.size=14000000", "size is 14000000: use at most 16384 pixels"),
    Wrong(f"{NEW} --recipe votecut --features dinov2_vits14:14000000", "size is 14000000: use at most 16384 pixels"),
    Wrong(f"{NEW} --recipe semantic_inputs --set crops.layout=six", "layout is 'six': use one of five, whole"),
    Wrong(f"{NEW} --recipe semantic_inputs --set features.size=400", "size is 400: use a multiple of patch_size"),
    Wrong(
        f"{NEW} --recipe semantic_inputs --set tree.min_area=4", "has no option 'tree.min_area': it has crops.layout"
    ),
    Wrong(f"{NEW} --recipe semantic_inputs --depth {{nowhere}}.onnx", "nowhere.onnx does not exist"),
    Wrong(f"{NEW} --features dinov9", "no features 'dinov9': use dino_vits8"),
    Wrong(f"{NEW} --features =", "no features ''"),
    Wrong(f"{NEW} --features dinov3_vits16", "no τ is known for the features dinov3_vits16: give one"),
    Wrong(f"{NEW} --features dinov2_vits14={{nowhere}}", "nowhere does not exist"),
    Wrong(f"{NEW} --features {{nowhere}}.pth", "nowhere.pth does not exist"),
    Wrong(f"{NEW} --depth midas", "no depth model 'midas': use fastdepth"),
    Wrong(f"{NEW} --depth {{nowhere}}.onnx", "nowhere.onnx does not exist"),
    Wrong(f"{NEW} --depth maps:{{nowhere}}", "nowhere is not a folder"),
    Wrong(f"{NEW} --depth {{empty}}", "empty holds no depth maps (.png, .npy, .npz)"),
    Wrong(f"{NEW} --device gpu", "unknown device 'gpu'"),
    Wrong(f"{NEW} --until ncutt", "ncutt"),
    Wrong(f"{NEW} --until depth --recipe maskcut", "there is no depth stage to run"),
    Wrong(
        f"{NEW} --recipe maskcut --set select.masks=1", "never reads select.masks, since it searches by rounds: what"
    ),
    Wrong(f"{NEW} --recipe maskcut --set boundary=none", "never reads boundary"),
    Wrong(f"{NEW} --set rounds.n=5", "what does this in recipe cuts3d is select.masks"),
    Wrong(f"{NEW} --set filters.max_iou=0.4", "what does this here is select.same_iou"),
    Wrong(f"{NEW} --set sharpen.exponent=mean", "since it has no spatial_importance"),
    Wrong(f"{NEW} --set local_cut.pieces=all", "never reads local_cut.pieces"),
    Wrong(f"{NEW} --recipe maskcut --depth zoedepth", "recipe maskcut does not look at depth: leave --depth out"),
    Wrong(f"{NEW} --recipe maskcut --depth-kind depth", "leave --depth-kind out"),
    Wrong(f"{NEW} --recipe detector --features dino_vits8", "recipe detector never reads --features"),
    Wrong(f"{NEW} --recipe detector --set detector.checkpoint={{nowhere}}", "there is no checkpoint"),
    Wrong(f"{NEW} --recipe detector --set detector.scores=1", "there is no option 'detector.scores'"),
    Wrong(f"{NEW} --recipe {{nowhere}}.toml", "nowhere.toml cannot be read: No such file"),
    Wrong(f"{NEW} --recipe {{recipe}} --set ncut.max_steps=x", "ncut.max_steps is a number"),
    Wrong("run --images {nowhere} --out {new} --recipe cuts3dd", "unknown recipe 'cuts3dd'"),
    Wrong("run --images {photos} --out {file}/run", "file/run: Not a directory"),
    Wrong(f"run --images {{photos}} --out {{new}}/{'x' * 300}", "File name too long"),
    Wrong("inspect {nowhere} --out {new}", "nowhere: no such file or folder"),
    Wrong("inspect {photos} --out {new}", "holds 3 images"),
    Wrong("inspect {list} --out {new}", "or write full paths in it"),
    Wrong("inspect {coco} --out {new}", "or write full paths in it"),
    Wrong("inspect {photos}/000.png --out {new} --recipe cuts3dd", "unknown recipe 'cuts3dd'"),
    Wrong("inspect {photos}/000.png --out {new} --recipe detector", "inspect shows the stages of cuts"),
    Wrong("inspect {photos}/000.png --out {new} --depth midas", "no depth model 'midas'"),
    Wrong("inspect {photos}/000.png --out {new} --device gpu", "unknown device 'gpu'"),
    Wrong("inspect {photos}/000.png --out {file}/x", "cannot write"),
    Wrong("demo --out {new} --recipe cuts3dd", "unknown recipe 'cuts3dd'"),
    Wrong("demo --out {new} --images {nowhere}", "nowhere: no such file or folder"),
    Wrong("demo --out {new} --images {list}", "say with --root"),
    Wrong("demo --out {new} --root {photos}", "--root is of use with --images only"),
    Wrong("demo --out {new} --recipe detector", "needs a trained detector: --set detector.checkpoint=FILE"),
    Wrong("demo --out {new} --recipe semantic_inputs", "demo shows instance masks, and recipe semantic_inputs makes"),
    Wrong("demo --out {new} --recipe depthg", "demo shows instance masks, and recipe depthg makes semantic labels"),
    Wrong("demo --out {new} --features dinov3_vits16", "--set affinity.tau=VALUE"),
    Wrong("demo --out {new} --device gpu", "unknown device 'gpu'"),
    Wrong("demo --out {file}/x", "cannot write"),
    Wrong("semantic-demo --out {new} --images {nowhere}", "nowhere: no such file or folder"),
    Wrong("semantic-demo --out {new} --images {list}", "say with --root"),
    Wrong("semantic-demo --out {new} --root {photos}", "--root is of use with --images only"),
    Wrong("semantic-demo --out {new} --clusters 1", "'--clusters'"),
    Wrong("semantic-demo --out {new} --device gpu", "unknown device 'gpu'"),
    Wrong("semantic-demo --out {file}/x", "cannot write"),
    Wrong("cups-demo --out {new} --images clips:{nowhere}", "nowhere"),
    Wrong("cups-demo --out {new} --images {photos}", "recipe cups needs stereo video"),
    Wrong("cups-demo --out {new} --root {photos}", "--root is of use with --images only"),
    Wrong("cups-demo --out {new} --motion smoke", "no motion model 'smoke'"),
    Wrong("cups-demo --out {new} --device gpu", "unknown device 'gpu'"),
    Wrong("cups-demo --out {file}/x", "cannot write"),
    Wrong("import-coco {nowhere} --out {new}", "nowhere"),
    Wrong("import-coco {file} --out {new}", "file"),
    Wrong("import-coco {file} --out {file}/x", "cannot write"),
    Wrong("import-coco {file} --out {new} --images-of {nowhere}", "file"),
    Wrong("recipes maskcutt", "unknown recipe 'maskcutt'"),
    Wrong(f"{NEW} --ray --recipe cuts3dd", "unknown recipe 'cuts3dd'"),
    Wrong("run --images {nowhere} --out {new} --ray", "nowhere: no such file or folder"),
    Wrong(f"{AGAIN} --recipe maskcut", "recipe.name: run has"),
    Wrong(f"{AGAIN} --set ncut.max_steps=77", "recipe.ncut.max_steps: run has"),
    Wrong(f"{AGAIN} --set features.size=420", "features.size: run has 840, now 420"),
    Wrong(f"{AGAIN} --images {{photos}} --shard-size 1", "images: run has 3 in 2 shards, now 3 in 3"),
)
TRAININGS = (
    Wrong("train --run {nowhere} --work-dir {new}", "nowhere is not a run"),
    Wrong("train --run {run} --work-dir {new} --config cuts3d_r51", "there is no configuration 'cuts3d_r51'"),
    Wrong(f"{TRAIN} --set model.backbon.depth=18", "the configuration has no model.backbon: did you mean backbone"),
    Wrong(f"{TRAIN} --backbone {{nowhere}}", "there are no backbone weights"),
    Wrong(f"{TRAIN} --init-from {{nowhere}}", "there is no checkpoint"),
    Wrong("train --run {run} --work-dir {new} --config self_train_r50_fpn", "give --init-from CHECKPOINT"),
    Wrong(f"{TRAIN} --val-truth {{nowhere}} --val-images {{photos}}", "nowhere cannot be read"),
    Wrong(f"{TRAIN} --val-truth {{file}}", "--val-truth and --val-images go together"),
    Wrong(f"{TRAIN} --device gpu", "unknown device 'gpu'"),
    Wrong(f"{TRAIN} --resume", "holds no training to resume"),
    Wrong("train --run {run} --work-dir {training} --config tiny", "is not of schema"),
    Wrong("train --run {run} --work-dir {run} --config tiny", "holds a run, run.json: give another --work-dir"),
    Wrong("self-train --run {nowhere} --checkpoint {file} --work-dir {new}", "nowhere is not a run"),
    Wrong("self-train --run {run} --checkpoint {nowhere} --work-dir {new}", "there is no checkpoint"),
    Wrong("self-train --run {run} --checkpoint {file} --work-dir {new} --config x", "there is no configuration 'x'"),
    Wrong("self-train --run {run} --checkpoint {file} --work-dir {new} --set x=1", "the configuration has no x"),
)
SEMANTIC = "train-semantic --images {photos} --out {new}"
SEMANTIC_TRAININGS = (
    Wrong("train-semantic --out {new}", "give --images to start one"),
    Wrong("train-semantic --images {nowhere} --out {new}", "nowhere: no such file or folder"),
    Wrong("train-semantic --images {photos} --out {file}", "Not a directory"),
    Wrong("train-semantic --images {photos} --out {training}", "is not of schema"),
    Wrong("train-semantic --inputs {nowhere} --out {new}", "nowhere is not a run"),
    Wrong("train-semantic --inputs {run} --out {run}", "holds a run, run.json: give another --out"),
    Wrong("train-semantic --images {photos} --out {run}", "holds a run, run.json: give another --out"),
    Wrong("train-semantic --inputs {run} --out {new}", "holds instance masks: features of crops are needed here"),
    Wrong("train-semantic --inputs {run} --images {photos} --out {new}", "leave --images out"),
    Wrong(f"{SEMANTIC} --recipe depthgg", "unknown recipe 'depthgg'; known: depthg"),
    Wrong(f"{SEMANTIC} --recipe stego --depth fastdepth", "recipe stego does not look at depth"),
    Wrong(f"{SEMANTIC} --recipe kmeans --iterations 9", "recipe kmeans trains no head"),
    Wrong(f"{SEMANTIC} --search 1001", "1001 is not in the range 1<=x<=1000"),
    Wrong(f"{SEMANTIC} --set search.trials=1001", "search.trials must be in 0..1000, got 1001"),
    Wrong(f"{SEMANTIC} --set objective.samples=0", "objective.samples must be in 1..64"),
    Wrong(f"{SEMANTIC} --set head.codes=9", "there is no 'head'; groups of options"),
    Wrong(f"{SEMANTIC} --set crops.layout=six", "crops.layout is 'six': use one of five, whole"),
    Wrong(f"{SEMANTIC} --set features.size=33", "size is 33: use a multiple of patch_size"),
    Wrong(f"{SEMANTIC} --features dinov9", "no features 'dinov9'"),
    Wrong(f"{SEMANTIC} --depth midas", "no depth model 'midas'"),
    Wrong(f"{SEMANTIC} --device gpu", "unknown device 'gpu'"),
    Wrong(f"{SEMANTIC} --resume", "holds no training to resume"),
    Wrong("semantic-recipes depthgg", "unknown recipe 'depthgg'"),
)
TAUS = (
    Wrong("tau --images {photos} --features dinov9", "no features 'dinov9': use dino_vits8"),
    Wrong("tau --images {nowhere} --features dinov2_vits14", "nowhere: no such file or folder"),
    Wrong("tau --images {list} --features dinov2_vits14", "say with --root"),
    Wrong("tau --images {photos} --features dino_vits8 --set affinity.tau=1", "set features.OPTION=VALUE"),
    Wrong("tau --images {photos} --features dino_vits8 --set features.size=33", "size is 33: use a multiple"),
    Wrong("tau --images {photos} --features dino_vits8={nowhere}", "nowhere does not exist"),
)
PREDICTIONS = (
    Wrong("predict {photos} --checkpoint {nowhere} --out {new}", "there is no checkpoint"),
    Wrong("predict {nowhere} --checkpoint {file} --out {new}", "nowhere: no such file or folder"),
    Wrong("predict {list} --checkpoint {file} --out {new}", "or write full paths in it"),
    Wrong("predict {coco} --checkpoint {file} --out {new}", "or write full paths in it"),
    Wrong("predict {nowhere}.mp4 --checkpoint {file} --out {new}", "there is no file"),
    Wrong("predict {photos} --checkpoint {file} --out {file}", "is a file"),
    Wrong("predict {photos} --checkpoint {file} --out {file}/x", "cannot write"),
    Wrong(
        "predict {photos} --checkpoint {file} --out s3://bucket/x",
        "is a URL: this is written to a path of this machine",
    ),
    Wrong("evaluate-detector --checkpoint {nowhere} --truth {file} --out {new}", "there is no checkpoint"),
    Wrong("evaluate-detector --checkpoint {file} --truth {nowhere} --out {new}", "nowhere cannot be read"),
    Wrong("evaluate-detector --checkpoint {file} --truth coko:{file} --out {new}", "there is no format 'coko'"),
    Wrong(
        "evaluate-detector --checkpoint {file} --truth {file} --truth-images x --truth-images y --out {new}",
        "2 --truth-images for 1 --truth",
    ),
    Wrong("evaluate-detector --checkpoint {file} --truth {file} --out {photos}", "is a directory"),
)
COMPARE = "compare --images {photos} --out {new} --recipes"
COMPARISONS = (
    Wrong(f"{COMPARE} maskcut", "--recipes maskcut is one recipe: name two or more"),
    Wrong(f"{COMPARE} maskcut,maskcut", "names one twice"),
    Wrong(f"{COMPARE} maskcut,cuts3dd", "unknown recipe 'cuts3dd'"),
    Wrong(f"{COMPARE} maskcut,import", "recipe import takes no photos from --images"),
    Wrong(f"{COMPARE} maskcut,{{nowhere}}.toml", "nowhere.toml cannot be read"),
    Wrong(f"{COMPARE} maskcut,maskcut_published --depth fastdepth", "reads --depth: leave it out"),
    Wrong(f"{COMPARE} maskcut,cuts3d --set rounds.n=1", "begin with the recipe that it is for, maskcut.rounds.n=1"),
    Wrong(f"{COMPARE} maskcut,cuts3d --set cuts3d.rounds.n=1", "what does this in recipe cuts3d is select.masks"),
    Wrong(f"{COMPARE} maskcut,cuts3d --set localcut.rounds.n=1", "localcut is not compared here, maskcut, cuts3d are"),
    Wrong(f"{COMPARE} maskcut,cuts3d --truth-images {{photos}}", "--truth-images says where the photos of --truth are"),
    Wrong(f"{COMPARE} maskcut,cuts3d --features dinov9", "no features 'dinov9'"),
    Wrong(f"{COMPARE} maskcut,cuts3d --device gpu", "unknown device 'gpu'"),
    Wrong(f"{COMPARE} maskcut,cuts3d --truth {{nowhere}}", "nowhere cannot be read"),
    Wrong("compare --images {nowhere} --out {new} --recipes maskcut,cuts3d", "nowhere: no such file or folder"),
    Wrong("compare --images {photos} --out {file}/x --recipes maskcut,cuts3d", "cannot write"),
)
LOOKS = (
    Wrong("status {nowhere}", "nowhere is not a run"),
    Wrong("info {nowhere}", "nowhere is not a run"),
    Wrong("verify {nowhere}", "nowhere is not a run"),
    Wrong("export {nowhere} --coco {new}", "nowhere is not a run"),
    Wrong("export {run} --panoptic {new}", "--panoptic is for panoptic labels; for instance masks there are"),
    Wrong(
        "export {run} --overlays {new} --threshold 0.1",
        "--threshold is for panoptic labels; for instance masks there are",
    ),
    Wrong("gallery {nowhere}", "nowhere is not a run"),
    Wrong("gallery {run} --threshold 0.1 --out {new}.html", "holds instance masks: panoptic labels are needed here"),
    Wrong("things {nowhere}", "nowhere is not a run"),
    Wrong("things {run}", "holds instance masks: panoptic labels are needed here"),
    Wrong("evaluate {nowhere} --truth {file}", "nowhere is not a run"),
    Wrong("evaluate {run} --truth {nowhere}", "nowhere cannot be read"),
    Wrong("evaluate-semantic {nowhere} --truth maps:{photos}", "nowhere is not a run"),
    Wrong("evaluate-semantic {run} --truth maps:{photos}", "holds instance masks: semantic labels are needed here"),
    Wrong("evaluate-semantic {run} --truth maps:{photos} --json {photos}", "is a directory"),
    Wrong("evaluate-panoptic {nowhere} --truth cityscapes:{photos}", "nowhere is not a run"),
    Wrong("evaluate-panoptic {run} --truth cityscapes:{photos}", "instance masks: panoptic labels are needed here"),
    Wrong("evaluate-panoptic {run} --truth cityscapes:{photos} --json {photos}", "is a directory"),
    Wrong("linear-probe {nowhere} --images {photos} --truth maps:{photos}", "nowhere does not exist"),
    Wrong("scores {nowhere} --truth {file}", "nowhere is not a run"),
    Wrong("scores {run} --truth {nowhere}", "nowhere cannot be read"),
    Wrong("retry-quarantined {nowhere}", "nowhere is not a run"),
    Wrong("retry-quarantined {run} --device x", "device"),
)
WRONG = (*RUNS, *TAUS, *TRAININGS, *SEMANTIC_TRAININGS, *PREDICTIONS, *COMPARISONS, *LOOKS)

QUICK = (
    "--help",
    "run --help",
    "recipes",
    "recipes cuts3d",
    "recipes {recipe}",
    "recipes detector",
    "status {run}",
    "semantic-recipes stego",
)


def places(folder: Path) -> dict[str, str]:
    """What the names in braces stand for, made below a folder."""
    photos = folder / "photos"
    draw_photos(photos, 3)
    names = ("nowhere", "new", "empty", "file", "list", "run", "training")
    paths = {name: folder / name for name in names} | {"photos": photos}
    paths |= {"list": folder / "list.txt", "coco": folder / "photos.json"}
    paths["recipe"] = folder / "own.toml"
    paths["recipe"].write_text('base = "cuts3d"\n[select]\nmasks = 5\n')
    paths["empty"].mkdir()
    paths["file"].write_text("nothing of use")
    paths["list"].write_text("000.png\n")
    paths["coco"].write_text(json.dumps({"images": [{"id": 1, "file_name": "000.png", "height": 8, "width": 8}]}))
    paths["training"].mkdir()
    (paths["training"] / "training.json").write_text(json.dumps({"schema": "somebody's"}))
    launch = Launch(str(photos))
    config = cuts_settings(launch, "refine").known()
    run = RunFolder.create_or_open(paths["run"], {**config, "depth": None}, listed_manifest(launch))
    keep_launch(run, launch)
    for shard in run.pending():
        commit(run, shard.key, [random_record(ref.id, (64, 80), seed, 1) for seed, ref in enumerate(shard.refs)])
    return {name: str(path) for name, path in paths.items()}


def words_of(line: str, found: dict[str, str]) -> list[str]:
    """The command line as words."""
    return [word.format(**found) for word in line.split()]
