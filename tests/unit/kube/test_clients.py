"""kopf's import: nothing comes with it that the operator does not use."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
from penstock.kube.clients import CLIENTS, import_kopf
import_kopf()
import penstock.kube.replica
print(sorted({name.partition(".")[0] for name in sys.modules} & set(CLIENTS)))
import kubernetes
"""


def test_clients_of_others_are_not_loaded_by_the_operator_and_can_be_used_all_the_same() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
