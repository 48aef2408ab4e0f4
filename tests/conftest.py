"""Float64 is available to every test; models and attacks of the default suite ask for float32 themselves."""

import gc
import os
import platform
import zlib
from collections import defaultdict
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

# Tests compile much and compute little; two devices are there for sharding.
FLAGS = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true",
         "--xla_force_host_platform_device_count=2", "--xla_cpu_parallel_codegen_split_count=1"]
if version("jaxlib").startswith("0.10."):   # the older emitters compile twice as fast; jax 0.12 does not have them
    FLAGS += ["--xla_cpu_use_fusion_emitters=false"]
os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *FLAGS))

# A program that was compiled once is kept: the second run on a machine compiles nothing that did not change.
KEPT = Path(__file__).parents[1] / ".pytest_cache" / "programs" / platform.node()
with suppress(OSError):   # in a folder that nobody may write to, nothing is kept
    KEPT.mkdir(parents=True, exist_ok=True)
    if os.access(KEPT, os.W_OK):
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(KEPT))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax  # noqa: E402
import pytest  # noqa: E402

try:
    from annotations import check_annotations
    check_annotations()
    CHECKED = "annotations are checked"
except ModuleNotFoundError as error:
    CHECKED = f"ANNOTATIONS ARE NOT CHECKED: {error}"

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_default_matmul_precision", "float32")


@pytest.fixture
def x64():
    """Double precision inside one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True)
def strict(request):
    """Arrays meet arrays of their own rank and type, or numbers: what the library broadcasts or casts, it says.

    Where the tests' own models, written as users write theirs, broadcast their biases or mix types, the file is marked
    promotes("ranks"), promotes("types") or both; so are those that run experiments, whose code is not held to it.
    """
    mark = request.node.get_closest_marker("promotes")
    allowed = mark.args if mark else ()
    with (jax.numpy_rank_promotion("allow" if "ranks" in allowed else "raise"),
          jax.numpy_dtype_promotion("standard" if "types" in allowed else "strict")):
        yield


def pytest_report_header():
    return CHECKED


def pytest_collection_finish():
    """What is imported by now stays: the collector need not walk through it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of what is marked sampled(k) the default suite runs one case in k, chosen by its name; `make slow` the rest."""
    groups = defaultdict(list)
    for item in items:
        mark = item.get_closest_marker("sampled")
        if mark:
            groups[item.nodeid.split("[")[0], mark.args[0]].append(item)
    for (_, k), group in groups.items():
        chosen = [item for item in group if not zlib.crc32(item.name.encode()) % k] or group[:1]
        for item in group:
            if item not in chosen:
                item.add_marker(pytest.mark.slow)
