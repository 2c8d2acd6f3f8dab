"""What takes processes of the tests seconds to import: for `support.warm`, which looks for no name here."""

# ruff: noqa: F401 - imported so that it is there

import mmdet.apis
import pandas
import scipy.sparse.linalg
import timm
import torch
import zarr

import detector.components
import pipeline.engine.run
