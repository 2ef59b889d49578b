"""Labels that objects of attempts and revisions of pipelines bear, wherever they are: people select by them."""

from __future__ import annotations

from typing import Final

EXECUTION: Final = "penstock.dev/execution"
EXECUTION_UID: Final = "penstock.dev/execution-uid"
PIPELINE: Final = "penstock.dev/pipeline"
STEP: Final = "penstock.dev/step"
ITEM: Final = "penstock.dev/item"
"""Only on attempts of a fan-out's items."""
ATTEMPT: Final = "penstock.dev/attempt"
MANAGED_BY: Final = "app.kubernetes.io/managed-by"
DIGEST: Final = "penstock.dev/digest"
"""On a revision: digest of the pipeline's spec."""
STEP_CONTAINER: Final = "step"
"""Name of the container that runs a step."""
REVISION_PREFIX: Final = "penstock-"
"""What the names of ControllerRevisions begin with: others make some in the same namespace."""
