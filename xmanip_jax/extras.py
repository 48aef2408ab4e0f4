"""Packages that only some modules need: what is said where one is missing."""

__all__ = ["missing"]


def missing(module: str, extra: str, error: ImportError) -> ImportError:
    """`error`, of an import in xmanip_jax.<module>, with the package that is missing and the extra that brings it."""
    package = (error.name or "").partition(".")[0]
    if package == "xmanip_jax" or not isinstance(error, ModuleNotFoundError):
        return error  # a defect, not a package that is missing
    told = f"xmanip_jax.{module} needs {package}: pip install 'xmanip-jax[{extra}]'"
    return ModuleNotFoundError(told, name=error.name)
