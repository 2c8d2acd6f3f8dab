"""Motion of a stereo camera and of what it sees (SF2SE3, CUPS): flow, disparity, and the rigid motions behind them.

CUPS: arXiv 2504.01955. SF2SE3: arXiv 2209.08532.
"""
