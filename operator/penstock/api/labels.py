"""Labels and annotations that objects of ours bear, wherever they are: people and programs select by them."""

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
STEP_CONTAINER: Final = "step"
"""Name of the container that runs a step."""

DIGEST: Final = "penstock.dev/digest"
"""On a revision: digest of the pipeline's spec."""
REVISION_PREFIX: Final = "penstock-"
"""What the names of ControllerRevisions begin with: others make some in the same namespace."""

DEPLOYMENT: Final = "penstock.dev/deployment"
"""On an execution and on what belongs to a deployment: name of that deployment."""
TRIGGER: Final = "penstock.dev/trigger"
"""What has started an execution: `schedule`, `endpoint`, `manual`, or `run` for one without a deployment."""
QUEUED: Final = "penstock.dev/queued"
"""Annotation of an execution that is let go when it is its turn."""
CREATED_BY: Final = "penstock.dev/created-by"
"""Annotation: who has made an object through the gateway."""
