"""Masks that others have made, as a method of the registry."""

from pipeline.images.manifest import Manifest
from pipeline.methods.coco_import.settings import NAME, RECIPE
from pipeline.methods.protocol import Method, MethodEntry
from pipeline.runs.launch import Launch


def _load(launch: Launch, device: str, until: str | None) -> Method:
    from pipeline.methods.coco_import.importing import CocoImport  # pycocotools, and the file itself

    return CocoImport.of(launch)


def _manifest(launch: Launch) -> Manifest:
    from pipeline.methods.coco_import.importing import manifest_of

    return manifest_of(launch)


ENTRY = MethodEntry(
    NAME,
    (RECIPE,),
    _load,
    manifest=_manifest,
    about=lambda _: "masks made elsewhere, by `cuts3d import-coco`",
    moved="cuts3d import-coco JSON --out {run} --images PLACE",
)
