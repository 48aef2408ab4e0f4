"""The modules of models are imported by the test alone, which skips those whose package is not installed."""

from pathlib import Path

collect_ignore = [path.name for path in Path(__file__).parent.glob("*.py") if not path.name.startswith("test_")]
