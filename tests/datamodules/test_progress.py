"""Progress in a log: a line every half minute, whose time left does not count what an earlier call did."""

from datamodules import progress
from datamodules.progress import with_progress


def test_a_log_gets_a_line_every_half_minute_with_the_time_left(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def slowly():
        for number in range(6):
            now[0] += 20
            yield number

    assert [*with_progress(slowly(), 10, "writing", " shards", start=4)] == list(range(6))
    # Two of the six are done after 40 s, four after 80 s, all of them after 120 s.
    assert capsys.readouterr().err.splitlines() == [
        "writing: 6 of 10 shards, 80 s left",
        "writing: 8 of 10 shards, 40 s left",
        "writing: 10 of 10 shards, 0 s left",
    ]


def test_what_is_done_within_seconds_is_not_told(capsys):
    assert [*with_progress("abc", 3, "decoding", " images")] == ["a", "b", "c"]
    assert capsys.readouterr().err == ""
