"""Everything that the detector registers with MMDetection. In a configuration file of one's own:

custom_imports = dict(imports=["detector.components"])
"""

# ruff: noqa: F401 - imported for what they register

import detector.data.copy_paste
import detector.data.dataset
import detector.data.loading
import detector.data.panoptic_batch
import detector.data.panoptic_loading
import detector.data.panoptic_store
import detector.data.sampling
import detector.model.backbone_weights
import detector.model.cascade
import detector.model.drop_loss
import detector.model.mask_head
import detector.model.panoptic_head
import detector.model.roi_features
import detector.training.hooks
import detector.training.loop
import detector.training.optimizer
import detector.training.self_enhanced
import detector.training.teacher
import detector.training.validation
