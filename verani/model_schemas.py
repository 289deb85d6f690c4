"""Describe Pydantic's models as JSON Schema, for `schemas`, which leaves them to us as msgspec does.

Pydantic is imported only where somebody has a model of it.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any, Literal

from .models import is_model, is_plain

__all__ = ["ModelSchemas"]


class ModelSchemas:
    """The models that are met while types are described; `sent` as in `schemas.describe`."""

    def __init__(self, reference: str, *, sent: bool) -> None:
        """Take the template of a reference, with ``{name}`` in it."""
        self._reference = reference
        self._sent = sent
        self._placeholders: dict[type[Any], str] = {}

    def describe(self, kind: Any) -> dict[str, Any]:
        """Describe one type that msgspec does not know; of a model this is a reference to what `settle` names."""
        if not is_model(kind):
            if is_plain(kind):
                return {}
            raise NotImplementedError  # what msgspec expects
        if not self._has_schema(kind):
            return {"type": "object", "title": kind.__name__, "additionalProperties": True}
        placeholder = self._placeholders.setdefault(kind, f"model:{len(self._placeholders)}")
        return {"$ref": self._reference.format(name=placeholder)}

    def _has_schema(self, kind: Any) -> bool:
        from pydantic import PydanticUserError

        try:
            kind.model_json_schema(mode="serialization" if self._sent else "validation")
        except PydanticUserError:  # of a field that has none
            return False
        return True

    def settle(self, taken: Collection[str]) -> tuple[dict[str, str], dict[str, str], dict[str, Any]]:
        """Return the components of all models with the names that Pydantic gives them.

        Before that, by what names references of others, and references among the components, are to be replaced.
        """
        if not self._placeholders:
            return {}, {}, {}
        from pydantic.json_schema import GenerateJsonSchema, models_json_schema

        mode: Literal["serialization", "validation"] = "serialization" if self._sent else "validation"
        schemas, document = models_json_schema(
            [(kind, mode) for kind in self._placeholders],
            ref_template=self._reference.format(name="{model}"),
            schema_generator=_whole_models() if self._sent else GenerateJsonSchema,
        )
        components: dict[str, Any] = document["$defs"]
        own = {name: f"{name}-Model" if name in taken else name for name in components}
        others = {
            placeholder: own[schemas[kind, mode]["$ref"].rpartition("/")[2]]
            for kind, placeholder in self._placeholders.items()
        }
        return others, own, components


@functools.cache
def _whole_models() -> type[Any]:
    """Make a generator for which models are sent with all their fields, as `encode_hook` writes them."""
    from pydantic.json_schema import GenerateJsonSchema

    class WholeModels(GenerateJsonSchema):
        def field_is_required(self, field: Any, total: bool) -> bool:
            if field["type"] == "typed-dict-field":
                return super().field_is_required(field, total)
            return field.get("serialization_exclude_if") is None

    return WholeModels
