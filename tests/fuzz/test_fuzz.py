"""Every decoder that strangers' bytes reach keeps its promises; `make fuzz` tries many more than these."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .targets import TARGETS, Target, check

EXAMPLES = 500


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_whatever_comes_is_accepted_or_refused_as_documented(target: Target) -> None:
    accepted = []

    # Hypothesis's own deadline measures the machine; `check` measures CPU time.
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def run(data: st.DataObject) -> None:
        accepted.append(check(target, data.draw(target.payloads)))

    run()
    assert 0.05 < sum(accepted) / len(accepted) < 0.95, "neither what passes nor what does not is left out"
