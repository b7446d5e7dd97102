"""What every test may use: the folder of real images, quiet progress, one thread a worker."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

# No test depends on the clock: a busy machine makes examples slowly, too.
hypothesis.settings.register_profile(
    "patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("patient")

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


def _find_shared_data() -> Path | None:
    named = os.environ.get("MEDSEG_TEST_DATA")
    places = [Path(named)] if named else [Path(__file__).parents[2] / "shared" / "data"]
    return next((place for place in places if place.is_dir()), None)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images that tests may read; skips where it is absent."""
    found = _find_shared_data()
    if found is None:
        pytest.skip(
            "no real images here: put them beside the checkout as shared/data or set MEDSEG_TEST_DATA"
        )
    return found


@pytest.fixture(autouse=True)
def _quiet_progress() -> None:
    from medseg.core import progress

    progress.be_quiet()
