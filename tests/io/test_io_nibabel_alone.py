"""nibabel is imported without pydicom, which stays whole for everything else."""

from __future__ import annotations

import json
import subprocess
import sys

CODE = """
import json, sys
from medseg.io.nibabel_alone import import_nibabel_alone
import_nibabel_alone()
found = {"nibabel": "nibabel" in sys.modules, "pydicom": "pydicom" in sys.modules}
import pydicom
found["later"] = hasattr(pydicom, "dcmread")
import_nibabel_alone()
found["kept"] = sys.modules["pydicom"] is pydicom
print(json.dumps(found))
"""


def test_nibabel_comes_alone_and_pydicom_can_be_imported_afterwards() -> None:
    found = json.loads(subprocess.check_output([sys.executable, "-c", CODE], text=True))
    assert found == {"nibabel": True, "pydicom": False, "later": True, "kept": True}
