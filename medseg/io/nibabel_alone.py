"""nibabel without pydicom, where the process is medseg's own and starts for one case."""

from __future__ import annotations

import sys


def import_nibabel_alone() -> None:
    """Imports nibabel without the pydicom that it takes along where it is installed.

    It needs pydicom for DICOM data kept inside NIfTI headers, which medseg leaves unread, and pydicom with its decoders
    takes several times as long to import as nibabel itself. pydicom is imported as ever where it is used. For commands
    before their first thread: inside other people's programs nibabel is left whole.
    """
    if "nibabel" in sys.modules or "pydicom" in sys.modules:
        return
    sys.modules["pydicom"] = None  # type: ignore[assignment]
    try:
        import nibabel  # noqa: F401
    finally:
        del sys.modules["pydicom"]
