"""Record what mmcv's compiled operators give for all of operator_cases.py.

    PYTHONPATH=tests python -m support.record_operators

For an environment with the compiled mmcv 2.1.0 (`make install-mmcv`); it refuses to record anything else.
"""

import mmcv
import numpy as np
import torch

from detector.operators import compiled
from support.operator_cases import CASES, RECORDED


def main() -> None:
    if not compiled() or mmcv.__version__ != "2.1.0":
        raise SystemExit(f"this is mmcv {mmcv.__version__}, compiled: {compiled()}: `make install-mmcv` first")
    torch.set_num_threads(1)
    arrays = {f"{name}/{part}": array for name, case in sorted(CASES.items()) for part, array in case.outcome().items()}
    np.savez_compressed(RECORDED, **arrays)
    refused = [name for name in CASES if f"{name}/refused" in arrays]
    print(f"{len(CASES)} cases, {RECORDED.stat().st_size} bytes in {RECORDED.name}; refused: {', '.join(refused)}")


if __name__ == "__main__":
    main()
