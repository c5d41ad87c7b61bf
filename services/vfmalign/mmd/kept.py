"""Values that cost something to make and are asked for again, kept within a budget of bytes. Knows nothing of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Same:
    """A key that is equal only to a key of the very same object, which it keeps alive."""

    thing: object

    def __eq__(self, other: object) -> bool:
        """Identity of what is held."""
        return isinstance(other, Same) and other.thing is self.thing

    def __hash__(self) -> int:
        """By identity."""
        return id(self.thing)


class Kept:
    """A cache of one batch; whatever was used least recently goes first.

    Args:
        budget_bytes: of all values together; 0 keeps nothing.
    """

    def __init__(self, budget_bytes: int = 0) -> None:
        self.budget_bytes = budget_bytes
        self.used_bytes = 0
        self._values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], _T], size_of: Callable[[_T], int]) -> _T:
        """The value of a key, made where it is not kept; one larger than the budget is not kept either.

        Args:
            key: equal keys have equal values.
            make: makes the value.
            size_of: its size in bytes.
        """
        if key in self._values:
            self._values.move_to_end(key)
            kept: _T = self._values[key][0]
            return kept
        value = make()
        size = size_of(value)
        if size <= self.budget_bytes:
            self._values[key] = (value, size)
            self.used_bytes += size
            while self.used_bytes > self.budget_bytes:
                _, (_, dropped) = self._values.popitem(last=False)
                self.used_bytes -= dropped
        return value


NOTHING_KEPT = Kept(0)
