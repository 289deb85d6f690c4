"""The benchmark of scrapes measures a service that runs, and says where it is too dear."""

from __future__ import annotations

import pytest

from benchmarks import scrape


async def test_the_cost_of_a_scrape_is_measured_and_judged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scrape, "ROUNDS", 1)
    monkeypatch.setattr(scrape, "ROUND", 0.3)
    monkeypatch.setattr(scrape, "MAX_CPU", 0.0)
    monkeypatch.setattr(scrape, "MAX_PASS", 0.0)
    wrong = await scrape.measure(10, 0)
    assert "0 hosts, 10 connections and rooms: a scrape of" in capsys.readouterr().out
    assert any("a loop was kept for" in each for each in wrong)
