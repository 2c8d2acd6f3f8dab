# The model of CutLER and CutS3D: class-agnostic Cascade Mask R-CNN, ResNet-50 and FPN. Numbers are CutLER's.
#
# Comments name what differs from MMDetection's _base_/models/cascade-mask-rcnn_r50_fpn.py, and where it comes from:
#   [CutLER]  its published YAML, cascade_mask_rcnn_R_50_FPN.yaml
#   [D2]      a default of detectron2, which CutLER trains with
#   [MMDet]   MMDetection's, where it does differ from detectron2 and is kept
# DropLoss is on, the Spatial Confidence off: that is CutLER. What changes them in a configuration built on this one:
#   bbox_head=[dict(head, drop_threshold=None) for head in _base_.model.roi_head.bbox_head]
#   mask_head=dict(use_confidence=True)
model = dict(
    type="CascadeRCNN",
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_mask=True,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type="ResNet",
        depth=50,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        frozen_stages=-1,  # [CutLER] FREEZE_AT 0: all of it is trained
        norm_cfg=dict(type="SyncBN", requires_grad=True),  # [CutLER]
        norm_eval=False,  # [CutLER] statistics are learnt
        style="pytorch",  # [CutLER] STRIDE_IN_1X1 False
        init_cfg=dict(type="DinoResNet", checkpoint=None),  # a file; None: out of the cache, or fetched into it
    ),
    neck=dict(
        type="FPN",
        in_channels=[256, 512, 1024, 2048],
        out_channels=256,
        num_outs=5,
        norm_cfg=dict(type="SyncBN", requires_grad=True),  # [CutLER]
    ),
    rpn_head=dict(
        type="DropLossRPNHead",
        drop_threshold=None,  # [CutLER] none in the RPN
        in_channels=256,
        feat_channels=256,
        anchor_generator=dict(type="AnchorGenerator", scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64]),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[1.0, 1.0, 1.0, 1.0]),
        loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
        loss_bbox=dict(type="L1Loss", loss_weight=1.0),  # [D2] smooth L1 with β = 0
    ),
    roi_head=dict(
        type="CascadeRoIHead",
        num_stages=3,
        # [D2] Stages weigh the same and hand a third of their gradient on to the feature maps. MMDetection's weigh 1,
        # 0.5 and 0.25 and hand on all of it.
        stage_loss_weights=[1, 1, 1],
        bbox_roi_extractor=dict(
            type="GradientScaledRoIExtractor",
            gradient_scale=1 / 3,
            roi_layer=dict(type="RoIAlign", output_size=7, sampling_ratio=0),
            out_channels=256,
            featmap_strides=[4, 8, 16, 32],
            finest_scale=56,
        ),
        bbox_head=[
            dict(
                type="DropLossBBoxHead",
                drop_threshold=0.01,  # [CutLER]
                in_channels=256,
                fc_out_channels=1024,
                roi_feat_size=7,
                num_classes=1,  # [CutLER]
                bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0, 0.0, 0.0, 0.0], target_stds=target_stds),
                reg_class_agnostic=True,
                loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
                loss_bbox=dict(type="L1Loss", loss_weight=1.0),  # [D2] smooth L1 with β = 0
            )
            for target_stds in ([0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [1 / 30, 1 / 30, 1 / 15, 1 / 15])
        ],
        # [MMDet] A mask head for each stage, on its boxes; their masks are averaged. detectron2 has one, which learns
        # on the proposals of the first stage. A third of the gradient keeps the pull of all three on the trunk as it is
        # there.
        mask_roi_extractor=dict(
            type="GradientScaledRoIExtractor",
            gradient_scale=1 / 3,
            roi_layer=dict(type="RoIAlign", output_size=14, sampling_ratio=0),
            out_channels=256,
            featmap_strides=[4, 8, 16, 32],
        ),
        mask_head=dict(
            type="ConfidenceMaskHead",
            use_confidence=False,
            num_convs=4,
            in_channels=256,
            conv_out_channels=256,
            num_classes=1,  # [CutLER]
            loss_mask=dict(type="SpatialConfidenceLoss", loss_weight=1.0),
        ),
    ),
    train_cfg=dict(
        rpn=dict(
            assigner=dict(
                type="MaxIoUAssigner",
                pos_iou_thr=0.7,
                neg_iou_thr=0.3,
                min_pos_iou=0.01,  # [D2] a true box has its best anchor however badly that fits: small objects
                match_low_quality=True,
                ignore_iof_thr=-1,
            ),
            sampler=dict(
                type="TruthRandomSampler", num=256, pos_fraction=0.5, neg_pos_ub=-1, add_gt_as_proposals=False
            ),
            allowed_border=-1,  # [D2] anchors that leave the image count
            pos_weight=-1,
            debug=False,
        ),
        rpn_proposal=dict(
            nms_pre=2000,  # of each level
            max_per_img=4000,  # [CutLER]
            nms=dict(type="nms", iou_threshold=0.65),  # [CutLER]
            min_bbox_size=0,
        ),
        # [MMDet] Every stage samples its own 512, a quarter positive at most. detectron2 samples for the first and
        # keeps those.
        rcnn=[
            dict(
                assigner=dict(
                    type="MaxIoUAssigner",
                    pos_iou_thr=iou,
                    neg_iou_thr=iou,
                    min_pos_iou=iou,
                    match_low_quality=False,
                    ignore_iof_thr=-1,
                ),
                sampler=dict(
                    type="TruthRandomSampler", num=512, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True
                ),
                mask_size=28,
                pos_weight=-1,
                debug=False,
            )
            for iou in (0.5, 0.6, 0.7)
        ],
    ),
    test_cfg=dict(
        rpn=dict(
            nms_pre=1000,
            max_per_img=1000,
            nms=dict(type="nms", iou_threshold=0.65),  # [CutLER] the same in training and testing
            min_bbox_size=0,
        ),
        rcnn=dict(
            score_thr=0.0,  # [CutLER]
            nms=dict(type="nms", iou_threshold=0.5),
            max_per_img=100,
            mask_thr_binary=0.5,
        ),
    ),
)
