from tests.deploy.conftest import tool  # noqa: F401
