"""One local Ray cluster of two CPUs for all tests of this folder."""

import pytest


@pytest.fixture(scope="session")
def cluster():
    """A started cluster; the tests join it."""
    from study.distributed.cluster import connected

    with connected():
        yield
