"""The Lava environment as a fixture: made once, kept in the user's cache for later runs."""

from __future__ import annotations

import pytest

from snn2chip import lava


@pytest.fixture(scope="session")
def lava_environment() -> lava.Environment:
    """Lava's light environment; skips only where there is no Python for it or no index to install from."""
    try:
        return lava.setup(progress=False)
    except (lava.NoPythonError, lava.RegistryError) as error:
        pytest.skip(str(error))
