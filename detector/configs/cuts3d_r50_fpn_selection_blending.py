# Ablation, row 3: the surest masks are pasted and blended in; nothing in the loss.
_base_ = ["cuts3d_r50_fpn.py"]
model = dict(roi_head=dict(mask_head=dict(use_confidence=False)))
