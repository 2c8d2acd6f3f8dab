# Self-training on photos of the domain that the detector is for, such as COCO's train2017.
# From a detector trained on others (--init-from). CutS3D's schedule for it is not known. These are two passes over the
# 118 287 photos of train2017, as in CuVLER's code, at the learning rate of self-training; on other photos give
# --iterations.
_base_ = ["self_train_r50_fpn.py"]
train_cfg = dict(max_iters=14800, val_interval=14800)
default_hooks = dict(checkpoint=dict(interval=1000))
