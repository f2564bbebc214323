from conftest_training import data, flags  # noqa: F401 (fixtures)
