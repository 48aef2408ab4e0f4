"""The folder of compiled programs: the user's own, private, bounded, and never in the way of a run."""

import os

import jax
import pytest

from common import compiled_programs

OPTIONS = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs", \
    "jax_persistent_cache_min_entry_size_bytes", "jax_enable_compilation_cache"


@pytest.fixture(autouse=True)
def untouched(monkeypatch, tmp_path):
    """JAX's options as before, and a home of the test's own."""
    before = {name: getattr(jax.config, name) for name in OPTIONS}
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def kept_in():
    return jax.config.jax_compilation_cache_dir


def test_the_folder_is_the_users_alone(tmp_path, monkeypatch):
    folder = tmp_path / "cache" / "xmanip_jax" / "xla"
    folder.mkdir(parents=True, mode=0o755)
    assert compiled_programs.keep() == folder and kept_in() == str(folder)
    assert folder.stat().st_mode & 0o777 == 0o700 and not list(folder.iterdir())
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert compiled_programs.keep() == tmp_path / "home" / ".cache" / "xmanip_jax" / "xla"


def test_jax_own_options_decide(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    assert compiled_programs.keep() is None and kept_in() == str(tmp_path)
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", False)
    assert compiled_programs.keep() is None and kept_in() is None and not (tmp_path / "cache").exists()


@pytest.mark.parametrize("hindrance", ["a file", "another user", "no home"])
def test_what_cannot_be_kept_is_compiled_anew(tmp_path, monkeypatch, hindrance):
    if hindrance == "a file":
        (tmp_path / "cache").touch()
    elif hindrance == "another user":
        monkeypatch.setattr(os, "getuid", lambda: 4242)
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(compiled_programs.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert compiled_programs.keep() is None and kept_in() is None


def test_the_oldest_go_first(tmp_path):
    for age, name in enumerate(("new", "middle", "old")):
        (tmp_path / name).write_bytes(b"0" * 100)
        os.utime(tmp_path / name, (10**9 - age, 10**9 - age))
    compiled_programs._pruned(tmp_path, 250)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["middle", "new"]
