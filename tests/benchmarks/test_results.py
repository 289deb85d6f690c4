"""The table shows ratios the right way round, and lost deliveries end in a failure."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import msgspec

from benchmarks.charts import draw
from benchmarks.load import Scenario
from benchmarks.measuring import Measurement
from benchmarks.results import Machine, Results, load_lines, table
from benchmarks.scenarios import CURVES, Row, capped, curve_points

ECHO = Scenario("echo", "echo", 1, 1, 1, 1, 1)
HERE = Machine("2026-01-01", "a processor", 2, "Linux", {})


def measured(server: str, **figures: object) -> Measurement:
    plain = Measurement(scenario="echo", server=server, cpu=10.0, per_second=100.0)
    return msgspec.structs.replace(plain, **figures)


def both(ours: Measurement, peer: Measurement) -> Results:
    return Results(HERE, [ours, peer])


def test_less_processor_time_than_the_peer_is_a_ratio_below_one() -> None:
    results = both(measured("Verani", cpu=8), measured("Bun", cpu=16))
    assert table(results, [Row("echo", ECHO, "cpu", "us")]).splitlines()[-1] == "| echo | 0.50 | 8.0 us |"


def test_more_connects_than_the_peer_is_a_ratio_below_one_too() -> None:
    results = both(measured("Verani", per_second=400), measured("Bun", per_second=100))
    assert (
        table(results, [Row("connects", ECHO, "per_second", "a second")])
        .splitlines()[-1]
        .startswith("| connects | 0.25 |")
    )


def test_a_peer_without_a_figure_leaves_its_cell_empty() -> None:
    results = both(measured("Verani"), measured("Bun"))
    results.drop("echo", "Bun")
    other = Scenario("other", "echo", 1, 1, 1, 1, 1)
    results.measurements += [measured("Verani", scenario="other"), measured("Bun", scenario="other")]
    lines = table(results, [Row("echo", ECHO, "cpu", "us"), Row("other", other, "cpu", "us")]).splitlines()
    assert lines[2:] == ["| echo |  | 10.0 us |", "| other | 1.00 | 10.0 us |"]


def test_the_load_says_how_much_it_works_for_a_second_of_the_server() -> None:
    results = both(
        measured("Verani", load_share=0.2, server_share=0.8), measured("Bun", load_share=0.9, server_share=0.6)
    )
    [line] = load_lines(results, ["echo"])
    assert line == "echo: for a second of the server's the load works 0.25 s beside Verani, 1.50 s beside Bun"


def test_what_was_lost_or_came_in_another_order_is_named() -> None:
    assert both(measured("Verani"), measured("Bun")).broken() == []
    [broken] = both(measured("Verani", lost=1), measured("Bun")).broken()
    assert broken.startswith("Verani, echo: 1 lost")
    assert len(both(measured("Verani", out_of_order=2), measured("Bun")).broken()) == 1


def test_points_beyond_the_limit_of_open_files_become_one_at_the_limit() -> None:
    assert capped([10, 100, 1000, 10_000], 2, 1000) == [10, 100, 400]
    assert capped([10, 100], 1, 300) == [10, 100]
    assert capped([16, 65_536], 0, 100) == [16, 65_536]


def test_a_curve_says_what_it_leaves_out() -> None:
    sizes, connections, rooms = CURVES
    assert curve_points(sizes, 1000) == (list(sizes.values), "")
    assert curve_points(connections, 65_536) == (list(connections.values), "")
    assert curve_points(rooms, 20_000)[1].startswith("rooms: 9,900 at most")


def test_a_drawing_is_well_formed_and_names_its_curves() -> None:
    root = ET.fromstring(draw("a < b", "x", "y", {"ours & theirs": [(16, 1.5), (65_536, 900)], "other": [(16, 2)]}))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a < b", "ours & theirs", "other", "x", "y"} <= set(texts)
