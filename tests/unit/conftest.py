"""Small networks for all unit tests; and property tests have no time limit, on machines of any speed."""

import pytest
from hypothesis import settings
from torch import Tensor

from pfstorer_core import Restorer

from .small import published, small_restorer

settings.register_profile("pfstorer", deadline=None)
settings.load_profile("pfstorer")


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    return small_restorer()


@pytest.fixture(scope="module")
def tensors(restorer: Restorer) -> dict[str, Tensor]:
    """Of the restorer, under the published keys."""
    return published(restorer)
