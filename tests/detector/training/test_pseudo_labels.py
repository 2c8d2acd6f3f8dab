"""What a detector teaches itself of an image: the views' boxes pooled, masks and classes averaged over them."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.structures import DetDataSample
from support.tiny_panoptic import STUFFS, THINGS, panoptic_model
from torch import Tensor
from torchvision.ops import batched_nms

from detector.data.panoptic_paste import PanopticSample
from detector.training.pseudo_labels import Labeller, LabelRule, classes_by_share
from pipeline.errors import ConfigError

SIZE = (96, 128)
RULE = LabelRule(scales=(0.5, 1.0), min_score=0.4)


@pytest.fixture(scope="module")
def model() -> Any:
    return panoptic_model()


@pytest.fixture(scope="module")
def image() -> Tensor:
    drawn = torch.randint(0, 256, (3, 12, 16), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    return drawn.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)


@pytest.fixture(scope="module")
def labelled(model: Any, image: Tensor) -> PanopticSample:
    return Labeller(model, RULE)(image)


@torch.no_grad()
def seen(model: Any, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes, scores, labels and semantic probabilities of all views, one after the other, by the model's own
    prediction.
    """
    boxes, scores, labels, total = [], [], [], torch.zeros(len(STUFFS) + 1, *SIZE)
    for scale in RULE.scales:
        size = round(SIZE[0] * scale), round(SIZE[1] * scale)
        scaled = F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0] if scale != 1 else image
        for mirrored in (False, True):
            shown = scaled.flip(-1) if mirrored else scaled
            meta = {"img_shape": size, "ori_shape": size, "scale_factor": (1.0, 1.0)}
            data = model.data_preprocessor({"inputs": [shown], "data_samples": [DetDataSample(metainfo=meta)]}, False)
            found = model.predict(data["inputs"], data["data_samples"], rescale=False)[0].pred_instances
            box = found.bboxes / scale
            boxes.append(
                torch.stack([SIZE[1] - box[:, 2], box[:, 1], SIZE[1] - box[:, 0], box[:, 3]], 1) if mirrored else box
            )
            scores.append(found.scores)
            labels.append(found.labels)
            logits = model.semantic_head.logits(model.extract_feat(data["inputs"]))
            probability = logits.softmax(dim=1)
            padded = F.interpolate(probability, [4 * side for side in logits.shape[2:]], mode="bilinear")
            own = F.interpolate(padded[..., : size[0], : size[1]], SIZE, mode="bilinear")[0]
            total += own.flip(-1) if mirrored else own
    return torch.cat(boxes), torch.cat(scores), torch.cat(labels), total / (2 * len(RULE.scales))


@torch.no_grad()
def test_the_views_are_pooled(model: Any, image: Tensor, labelled: PanopticSample) -> None:
    boxes, scores, labels, probability = seen(model, image)
    sure = scores >= RULE.min_score
    boxes, scores, labels = boxes[sure], scores[sure], labels[sure]
    kept = batched_nms(boxes, scores, labels, RULE.nms_iou)
    labeller = Labeller(model, RULE)
    views = list(labeller._views(image))
    found, their_scores, their_labels = labeller._boxes(views, SIZE)
    assert len(views) == 4
    assert 5 < len(kept) < len(boxes)
    torch.testing.assert_close(their_scores, scores[kept], atol=1e-4, rtol=0)
    torch.testing.assert_close(found, boxes[kept], atol=2e-2, rtol=0)
    assert torch.equal(their_labels, labels[kept])
    masks = []
    for view, (scale, mirrored) in zip(views, [(0.5, False), (0.5, True), (1, False), (1, True)], strict=True):
        left, top, right, bottom = (found * scale).unbind(dim=1)
        wide = SIZE[1] * scale
        sides = (wide - right, top, wide - left, bottom) if mirrored else (left, top, right, bottom)
        rois = torch.stack([torch.zeros_like(left), *sides], dim=1)
        mask = model.roi_head._mask_forward(0, view.features, rois)["mask_preds"].sigmoid()
        own = mask[torch.arange(len(rois)), their_labels]
        masks.append(own.flip(-1) if mirrored else own)
    wanted = torch.stack(masks).mean(dim=0)
    torch.testing.assert_close(labeller._masks(views, found, their_labels, SIZE), wanted, atol=1e-4, rtol=0)
    assert (masks[0] - masks[3]).abs().mean() > 0.01, "views differ"
    ours = labeller._probabilities(views, SIZE)
    assert (ours - probability).abs().mean() < 2e-3, "of smaller views they are enlarged in one step"
    wanted = classes_by_share(ours, RULE.class_share)
    assert np.array_equal(labelled.seg_HW, wanted.numpy())


def test_what_comes_out(image: Tensor, labelled: PanopticSample) -> None:
    assert np.array_equal(labelled.image_3HW, image.numpy())
    assert len(labelled.labels_M) == len(labelled.values_MHW) == len(labelled.boxes_M4) > 2
    assert set(labelled.labels_M.tolist()) <= set(range(len(THINGS)))
    assert ((labelled.values_MHW > 0).sum(axis=0) <= 1).all(), "no pixel is of two instances"
    assert set(np.unique(labelled.seg_HW)) <= {*range(len(STUFFS) + 1), 255}
    for value_HW, box in zip(labelled.values_MHW, labelled.boxes_M4, strict=True):
        rows, columns = np.nonzero(value_HW)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_a_mirrored_image_has_mirrored_labels(model: Any, image: Tensor, labelled: PanopticSample) -> None:
    """The views of the one are those of the other; a label that is kept or not by a hair may differ."""
    other = Labeller(model, RULE)(image.flip(-1))
    assert (other.seg_HW[:, ::-1] == labelled.seg_HW).mean() > 0.99
    assert sorted(other.labels_M.tolist()) == sorted(labelled.labels_M.tolist())
    ours, theirs = (s.values_MHW.any(axis=0) for s in (labelled, other))
    assert (ours == theirs[:, ::-1]).mean() > 0.97


def test_an_image_in_which_nothing_is_sure(model: Any, image: Tensor) -> None:
    none = Labeller(model, LabelRule(scales=(1.0,), min_score=0.999))(image)
    assert none.values_MHW.shape == (0, *SIZE)
    assert none.boxes_M4.shape == (0, 4)
    assert none.labels_M.shape == (0,)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), share=st.sampled_from([0.0, 0.3, 0.5, 0.9]))
def test_a_class_counts_where_it_is_likely_for_itself(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    probability = rng.dirichlet([0.5] * 4, (5, 6)).transpose(2, 0, 1)
    classes = classes_by_share(torch.from_numpy(probability), share).numpy()
    for y, x in np.ndindex(5, 6):
        sure = [c for c in range(4) if probability[c, y, x] > share * probability[c].max()]
        wanted = max(sure, key=lambda c: probability[c, y, x]) if sure else 255
        assert classes[y, x] == wanted


def test_a_rare_class_wins_over_a_common_one_that_is_unsure() -> None:
    """Class 1 has less than class 0 at the right pixel, and is sure there in its own measure."""
    probability = torch.tensor([[[0.95, 0.45]], [[0.05, 0.30]], [[0.0, 0.25]]])
    assert classes_by_share(probability, 0.5).tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scales": ()}, "scales are"),
        ({"scales": (0.5, 0)}, "scales are"),
        ({"min_score": 2}, "min_score is 2"),
        ({"class_share": 1.0}, "class_share is 1.0"),
        ({"nms_iou": 0.0}, "nms_iou is 0.0"),
        ({"max_per_image": 0}, "max_per_image is 0"),
        ({"max_cover": 3}, "max_cover is 3"),
    ],
)
def test_out_of_range(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LabelRule(**wrong)
