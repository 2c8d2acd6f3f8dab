# CutLER's class-agnostic detector: plain copy-paste, DropLoss, nothing of the confidence.
# arXiv 2301.11320, 8 GPUs × 2 images: the baseline that CutS3D's recipe is held against. Also the first row of
# CutS3D's ablation of the confidence, on a run of CutS3D's masks.
_base_ = [
    "_base_/cascade_mask_rcnn_r50_fpn.py",
    "_base_/store.py",
    "_base_/schedule_160k.py",
    "_base_/runtime.py",
]
