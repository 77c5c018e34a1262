"""Parameters that several routes take, each with its limits and its words once.

Bad ones are refused here, before a registry or a database sees them.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path
from pydantic import AfterValidator, WithJsonSchema

from loradock_adapters.names import NAME_PATTERN, RESERVED_NAMES, validate_alias, validate_name

NAME_SCHEMA: dict[str, Any] = {
    "type": "string",
    "pattern": f"^{NAME_PATTERN}$",
    "not": {"enum": sorted(RESERVED_NAMES)},
}
_ALIAS = {"type": "string", "pattern": f"^(?![0-9]+$){NAME_PATTERN}$"}

Name = Annotated[str, AfterValidator(validate_name), WithJsonSchema(NAME_SCHEMA)]
Alias = Annotated[str, AfterValidator(validate_alias), WithJsonSchema(_ALIAS)]

AdapterName = Annotated[Name, Path(description="The adapter's name.")]
AliasName = Annotated[Alias, Path(description="The alias; `live` is what the plain name means.")]
VersionNumber = Annotated[int, Path(ge=1, le=999_999_999, description="The version's number.")]
