"""The class-agnostic detector: MMDetection's Cascade Mask R-CNN, trained on the shards of runs.

This package is imported whenever `cuts3d` starts; MMDetection is imported by its modules only, and can be with
mmcv-lite, and in many processes at once, once this package is.
"""

from detector.grammar_cache import guard_yapf
from detector.operators import stand_in

stand_in()
guard_yapf()
