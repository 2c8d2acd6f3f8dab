"""What `cuts3d info` shows of masks."""

import numpy as np
import pytest

from pipeline.results.histograms import histogram
from pipeline.results.instance_kind import InstanceKind
from pipeline.results.semantic_kind import SemanticKind


@pytest.mark.parametrize("bounds", [(0.04, 0.06), (0.0, 1.0), (0.5, 0.5 + 1e-6), (0.3, 0.3)])
def test_bins_that_differ_have_labels_that_differ(bounds: tuple[float, float]) -> None:
    values = np.linspace(*bounds, 200)
    nothing = histogram(np.empty(0), (0.0, 1.0))
    survey = {"score": histogram(values), "mean_confidence": nothing, "log10_area_share": nothing}
    lines = InstanceKind().survey_lines({"masks_per_image": {3: 2}, **survey})
    labels = [line.split()[0] for line in lines[lines.index("score") + 1 :]]
    assert len(labels) == len(set(labels)) == sum(count > 0 for count in survey["score"]["counts"])
    assert [float(label) for label in labels] == sorted(map(float, labels))


def test_what_was_all_set_aside_has_no_empty_headings() -> None:
    assert InstanceKind().survey_lines(InstanceKind().survey([])) == []
    assert SemanticKind().survey_lines(SemanticKind().survey([])) == []
