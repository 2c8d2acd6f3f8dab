"""torch, imported at its first use: it takes two seconds, and who asks a stage for its options alone, as who refuses a
wrong one does, need not wait for it.

    from __future__ import annotations  # or the annotations of functions would be its first use

    from stages.late import torch
"""

import gc
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
else:

    class _Torch:
        def __getattr__(self, name: str) -> Any:
            """Asked for what `__dict__` lacks: for anything before the import, for hardly anything after it."""
            module = _imported()
            # The very names of the module: from now on what stands for it is as fast, and never out of date.
            self.__dict__ = module.__dict__
            return getattr(module, name)

    def _imported() -> Any:
        was_enabled = gc.isenabled()
        gc.disable()  # nothing of what an import makes is garbage: looking for it takes a seventh of the time
        try:
            import torch as module
        finally:
            if was_enabled:
                gc.enable()
        return module

    torch = _Torch()
