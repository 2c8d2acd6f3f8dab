"""Which kinds of results there are: those of this package, and what other packages bring.

A package that is installed with an entry point of the group `cuts3d.results` adds a kind:

    [options.entry_points]
    cuts3d.results =
        counts = my_package.counts:CountKind

The entry point names a class, or a function, that is called without arguments and gives a `ResultKind` that reads.
"""

from pipeline.errors import RunMismatchError
from pipeline.plugins import entries, loaded
from pipeline.results.crop_features_kind import CropFeaturesKind
from pipeline.results.instance_kind import InstanceKind
from pipeline.results.kinds import ResultKind
from pipeline.results.panoptic_kind import PanopticKind
from pipeline.results.semantic_kind import SemanticKind

GROUP = "cuts3d.results"
# Each says in messages what it is, `words`, and what there is for it, `commands`.
KINDS = {kind.name: kind for kind in (InstanceKind, SemanticKind, PanopticKind, CropFeaturesKind)}


def kind_named(name: str) -> ResultKind:
    """The kind of this name, to read with. RunMismatchError when no installed package has it."""
    if name in KINDS:
        return KINDS[name]()
    found = {entry.name: entry for entry in entries(GROUP)}
    if name not in found:
        known = ", ".join([*KINDS, *found])
        raise RunMismatchError(
            f"no installed package reads results of kind {name!r} (known: {known}): install the package that made them"
        )
    kind: ResultKind = loaded(found[name])()
    return kind
