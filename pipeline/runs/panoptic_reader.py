"""Reading a run of panoptic labels, for callers that can use no other kind."""

from collections.abc import Iterator, Mapping
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.results.kinds import Counts, Failed, added
from pipeline.results.panoptic import PanopticRecord
from pipeline.results.panoptic_kind import NAME
from pipeline.results.panoptic_split import THRESHOLD, ThingSplit
from pipeline.results.semantic import Classes
from pipeline.runs.needed_kind import need_kind
from pipeline.runs.reader import RunReader
from pipeline.runs.run_folder import RunFolder
