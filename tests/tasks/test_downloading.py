"""What a download shows while it runs."""

from __future__ import annotations

import pytest

from tasks import downloading
from tasks.downloading import _Meter


class Sink:
    def __init__(self) -> None:
        self.shown: list[tuple[str, int]] = []

    def advance(self, stage: str, count: int) -> None:
        self.shown.append((stage, count))


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> Sink:
    sink = Sink()
    monkeypatch.setattr(downloading, "progress_sink", lambda: sink)
    return sink


@pytest.mark.parametrize(
    ("total_bytes", "total", "unit"),
    [(0, 0, "kB"), (9_999_999, 9999, "kB"), (10_000_000, 10, "MB"), (7_063_000_000, 7063, "MB")],
)
def test_bytes_are_counted_in_units_for_people(total_bytes: int, total: int, unit: str) -> None:
    meter = _Meter("download", total_bytes)
    assert (meter.total, meter.unit) == (total, unit)


def test_the_sink_hears_whole_units_that_add_up(sink: Sink) -> None:
    meter = _Meter("download", 10_500_000)
    for count in [600_000, 600_000, 3_000_000, -4_200_000, *[1_050_000] * 10]:
        meter.advance(count)
    assert sink.shown[:3] == [("download", 1), ("download", 3), ("download", -4)]
    assert sum(count for _, count in sink.shown) == meter.total == 10
