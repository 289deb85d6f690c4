"""Read what Prometheus reads."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

__all__ = ["measured"]


def measured(text: str) -> dict[str, float]:
    """Give each sample of an exposition, such as `name{label="value"}`, without the prefix of all names."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            name = sample.name.removeprefix("verani_") + (f"{{{labels}}}" if labels else "")
            assert name not in found, "a sample is given once"
            found[name] = sample.value
    return found
