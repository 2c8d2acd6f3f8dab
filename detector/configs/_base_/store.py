# Photos and pseudo-masks out of the shards of runs. `cuts3d train --run RUN` sets `runs`; elsewhere, set
#   train_dataloader = dict(dataset=dict(runs=["path/or/url/of/a/run"]))
train_pipeline = [
    dict(type="LoadPhoto"),
    dict(type="LoadConfidenceMasks", floor=0.0),
    dict(type="PlainCopyPaste", ratio=(0.3, 1.0)),  # [CutLER]
    # [CutLER] the shorter side at random, the longer 1333 at most
    dict(
        type="RandomChoiceResize",
        scales=[(1333, short) for short in (240, 320, 480, 640, 672, 704, 736, 768, 800, 1024)],
        keep_ratio=True,
    ),
    dict(type="RandomFlip", prob=0.5),
    dict(type="FilterAnnotations", min_gt_bbox_wh=(1, 1), by_mask=True),  # what scaling made vanish
    dict(type="PackDetInputs"),
]
# Three masks per image, those that score best: the papers have three at most, and of the ten that the tree search gives
# the later ones are less and less often right (docs/decisions/0012-which-masks-are-learnt.md). The others keep all.
filters = dict(max_per_image=3, min_score=None, min_confidence=0.0, min_area=0.0, max_area=1.0, min_per_image=1)
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="SeededSampler"),
    dataset=dict(type="StoreDataset", runs=None, filters=filters, pipeline=train_pipeline),
)
test_pipeline = [
    dict(type="LoadPhoto"),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
