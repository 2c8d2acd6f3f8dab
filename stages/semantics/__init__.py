"""Semantic labels without labels (STEGO, DepthG): what training and labelling are made of, in plain torch.

STEGO: arXiv 2203.08414. DepthG: arXiv 2309.12378. Where DepthG's paper and its released code part, there are two
*readings*: "paper" and "released".
"""

from typing import Literal

Reading = Literal["paper", "released"]
