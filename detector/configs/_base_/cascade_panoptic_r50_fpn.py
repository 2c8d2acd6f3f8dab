# The model of CUPS: the cascade beside this file for thing classes, and a semantic head for stuff. Numbers are CUPS'.
#
# [CUPS]  its released configuration    [D2]  a default of detectron2, which CUPS trains with
# How many thing and stuff classes there are is known when a training starts: its run says so, and 1 here is replaced.
_base_ = ["cascade_mask_rcnn_r50_fpn.py"]
model = dict(
    type="CascadePanoptic",
    data_preprocessor=dict(pad_seg=True, seg_pad_value=255),
    roi_head=dict(
        type="DetectronCascade",  # [D2] scores are means of the stages' probabilities, one mask head
        bbox_head=[dict(head, drop_threshold=0.4) for head in _base_.model.roi_head.bbox_head],  # [CUPS]
        mask_head=dict(class_agnostic=False),  # [CUPS] boxes of one kind, masks by class
    ),
    semantic_head=dict(
        type="StuffHead",
        num_stuffs=1,
        in_channels=256,
        inner_channels=128,  # [D2]
        norm_cfg=dict(type="GN", num_groups=32, requires_grad=True),  # [D2]
        loss_weight=0.5,  # [CUPS]
    ),
    test_cfg=dict(rcnn=dict(score_thr=0.05)),  # [D2]
)
