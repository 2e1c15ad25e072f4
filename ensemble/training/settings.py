"""A configuration as flat settings by `section.field`, as files change it, and back."""

from typing import Any

from ensemble.training.config import TrialConfig


def flatten(config: TrialConfig) -> dict[str, Any]:
    """Settings by `section.field`, and `seed`."""
    values: dict[str, Any] = {}
    for section, content in config.model_dump().items():
        if isinstance(content, dict):
            values |= {f"{section}.{field}": value for field, value in content.items()}
        else:
            values[section] = content
    return values


def unflatten(values: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        section, _, field = name.partition(".")
        if field:
            nested.setdefault(section, {})[field] = value
        else:
            nested[name] = value
    return nested
