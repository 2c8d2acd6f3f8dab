# Photos and panoptic labels out of the shards of runs, as CUPS learns them. `cuts3d train --run RUN` sets `runs`.
#
# [CUPS] its released configuration and code, for street scenes of 1024 x 2048. Photos of other sizes fit in: every size
# here is of the long and the short side, and each photo keeps its own aspect.
size = (1280, 640)  # [CUPS] labels and photos at 0.625 of the original
train_pipeline = [
    dict(type="LoadPhoto"),
    # False is what the released configurations have; the paper ignores these pixels
    dict(type="LoadPanoptic", ignore_unknown_things=True),
    dict(type="Resize", scale=size, keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),  # [CUPS]
    dict(type="AreaCrop", area=(0.7, 1.0)),  # [CUPS]
    dict(type="PackDetInputs"),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="SeededSampler"),
    dataset=dict(
        type="PanopticStoreDataset",
        runs=None,
        threshold=None,  # of things: 0.08 [CUPS], or what a run itself says
        only_non_empty=True,  # [CUPS] images without an instance are not learnt from
        pipeline=train_pipeline,
    ),
)
# On whole batches, in this order: a hook pastes, the data preprocessor (a part of the model) scales and recolours.
copy_paste = dict(
    type="SelfEnhancedCopyPaste",
    start=500,  # [CUPS] of 4000; 1000 of 8000 in its YAML for Cityscapes
    min_score=0.75,  # [CUPS]
    max_iou=0.5,  # [CUPS]
    instances=(1, 8),  # [CUPS]
    scale=(0.25, 1.5),  # [CUPS]
    flip=0.5,  # [CUPS]
    min_side=32,  # [CUPS] boxes above 32 x 32
)
scales = [(2 * short, short) for short in range(384, 705, 32)]  # [CUPS] eleven, one for each batch
photometric = dict(  # [CUPS]
    blur=(0.1, 2.0), kernel=7, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, prob=0.5, grey=0.2
)
test_pipeline = [
    dict(type="LoadPhoto"),
    dict(type="Resize", scale=size, keep_ratio=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
