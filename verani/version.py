"""Name the version of this build, for packages, `--version` and the hello of links."""

__all__ = ["__version__"]

__version__ = "0.2.0"
