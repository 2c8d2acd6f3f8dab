"""Everything that the detector registers with MMDetection. In a configuration file of one's own:

custom_imports = dict(imports=["detector.components"])
"""

# ruff: noqa: F401 - imported for what they register

import detector.backbone_weights
import detector.copy_paste
import detector.dataset
import detector.drop_loss
import detector.hooks
import detector.loading
import detector.mask_head
import detector.optimizer
import detector.roi_features
import detector.sampling
import detector.train_loop
import detector.validation
