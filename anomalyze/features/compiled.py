"""How every kernel of this package is compiled; ``anomalyze/__init__.py`` says where the result is kept.

Only the entry points are kept on disk: what they call is compiled into them.
"""

from __future__ import annotations

from typing import Any

__all__ = ["COMPILED"]

# No exception for a division by zero, which would keep loops scalar; and no reference counts, whose atomic
# increments took a fifth of the kernel's time: compiled code allocates nothing, its arrays come from the caller
# and outlive the call.
COMPILED: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
