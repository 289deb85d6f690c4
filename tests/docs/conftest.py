"""What tests of documents share with others."""

from tests.deploy.conftest import tool
from tests.integration.conftest import serve

__all__ = ["serve", "tool"]
