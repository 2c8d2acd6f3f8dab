"""`python -m detector.training`: `cuts3d train` for torchrun, which starts modules."""

import sys

from pipeline.cli import main

main(["train", *sys.argv[1:]])
