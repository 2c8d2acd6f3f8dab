"""A run's labels beside the true classes of its images.

H, W pixels
"""

from dataclasses import dataclass

from pipeline.evaluation.beside_truth import BesideTruth, ScoredImages
from pipeline.evaluation.semantic_scores import Confusions
from pipeline.evaluation.semantic_sizes import of_one_size
from pipeline.evaluation.semantic_truth.truth import SemanticTruth, TrueLabels
from pipeline.images.manifest import ImageRef
from pipeline.results.semantic import SemanticRecord
from pipeline.runs.run_folder import RunFolder
from pipeline.runs.semantic_reader import SemanticReader


@dataclass(frozen=True)
class RunLabels:
    """What a run says of the images of a truth.

    clusters: names of its labels.
    model: digest of what made them, see `SemanticReader.model`.
    confusions: of each image that can be scored.
    images: which these are.
    """

    url: str
    recipe: str
    clusters: tuple[str, ...]
    model: str
    confusions: Confusions
    images: ScoredImages


def run_labels(
    run: RunFolder, truth: SemanticTruth, crop: int | None = None, told: set[int] | None = None
) -> RunLabels:
    """Read a run's labels and the truth of its images, image by image.

    Where they are of different sizes and one shape, the labels are brought to the truth's size, by nearest pixels.

    crop: side in pixels of the middle square that is scored, see `semantic_sizes.cropped`; None for whole images.
    told: see `BesideTruth`.

    Raises:
        ConfigError: the run holds results of another kind.
        SourceError: no image can be scored.
        StoreError: the run is damaged, or no shard of it is done.
    """
    reader = SemanticReader(run)
    reader.need_any()
    confusions = Confusions(len(reader.clusters))

    def load(record: SemanticRecord, number: int, ref: ImageRef) -> TrueLabels:
        return truth.labels(number, ref, record.size)

    beside = BesideTruth(truth, run.manifest.refs, run.url, told)
    for record, true in beside.pairs(reader, load):
        confusions.add(*of_one_size(record.labels, true.labels, crop))
    return RunLabels(
        url=run.url,
        recipe=run.recipe,
        clusters=reader.clusters.names,
        model=reader.model,
        confusions=confusions,
        images=beside.images,
    )
