"""What --memory and --precision say, for drivers: and what of the memory was chosen, printed and noted."""

from typing import Any

from rich.console import Console

from xmanip_jax import memory


class Computing:
    """The options `memory` and `precision` of drivers, from a runs.Computed; what fits is printed once.

    Raises ValueError for a memory that is none, or more than is free.
    """

    def __init__(self, config: Any, console: Console) -> None:
        self._console, self._chosen = console, {}
        budget = None if config.memory is None else memory.Budget(config.memory, self._told)
        self.options: dict[str, Any] = {"memory": budget, "precision": config.precision}

    def noted(self) -> dict[str, list]:
        """For results.json."""
        return {"memory": list(self._chosen.values())}

    def _told(self, choice):
        if str(choice) not in self._chosen:
            self._chosen[str(choice)] = choice._asdict()
            self._console.print(f"memory: {choice}", highlight=False)
