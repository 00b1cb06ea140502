"""Records as JSON, checked when read."""

from __future__ import annotations

from functools import cached_property
from typing import Generic, TypeVar

from pydantic import TypeAdapter

T = TypeVar("T")


class JsonForm(Generic[T]):
    """How a type is written as JSON and read again.

    A `TypeAdapter` takes milliseconds to make, and there are dozens: each is made when it is first
    used, so that a command starts no slower for records that it never meets.
    """

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind

    @cached_property
    def _adapter(self) -> TypeAdapter[T]:
        return TypeAdapter(self._kind)

    def load(self, data: bytes | str) -> T:
        """Read JSON; pydantic's `ValidationError` if it is not of this form."""
        return self._adapter.validate_json(data)

    def check(self, value: object) -> T:
        """What was read as JSON already, as the type; `ValidationError` if it is not of it."""
        return self._adapter.validate_python(value)

    def dump(
        self, record: T, *, indent: int | None = None, without_defaults: bool = False
    ) -> bytes:
        """JSON, the fields in their order."""
        return self._adapter.dump_json(record, indent=indent, exclude_defaults=without_defaults)
