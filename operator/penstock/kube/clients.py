"""kopf without the Kubernetes clients of others, which it imports where they are installed, to know types of theirs.

Nobody here uses those types, and the `kubernetes` package alone takes 58 MiB and 2 s of CPU time.
"""

from __future__ import annotations

import sys
from typing import Any, Final

CLIENTS: Final = ("kubernetes", "kubernetes_asyncio", "pykube")


def import_kopf() -> None:
    """Import kopf, for the first time, as if no such client were installed.

    Raises:
        ImportError: kopf is not installed.
    """
    modules: dict[str, Any] = sys.modules
    hidden = [name for name in CLIENTS if name not in modules]
    modules.update(dict.fromkeys(hidden))  # None: not to be imported
    try:
        import kopf  # noqa: F401, PLC0415
    finally:
        for name in hidden:
            del modules[name]
