"""Progress on stderr: plain lines where it is no terminal, and text as it is."""

import pytest
from ambient.curate import reporter
from ambient.curate.reporter import Reporter


def test_text_is_shown_as_it_is_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("[red]a[/red].png", ":smile:.png", "x" * 500):
        Reporter().say(text)
        assert capsys.readouterr() == ("", text + "\n")


def test_quiet_keeps_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    speaker = Reporter(quiet=True)
    speaker.say("not this")
    with speaker.track("nor this", 3) as advance:
        advance(3)
    speaker.warn("this")
    assert capsys.readouterr() == ("", "warning: this\n")


def test_plain_lines_with_rate_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 5.0, 20.0, 25.0, 40.0])
    monkeypatch.setattr(reporter.time, "monotonic", lambda: next(clock))
    with Reporter().track("reading", 4_000) as advance:
        for _ in range(3):
            advance(1_000)
    assert capsys.readouterr().err.splitlines() == [
        "reading: 2,000 of 4,000 pictures, 100/s, 20 s left",
        "reading: 3,000 pictures in 40.0 s (75/s)",
    ]


def test_an_error_is_not_swallowed() -> None:
    with pytest.raises(ValueError, match="torn"), Reporter().track("reading", 2):
        raise ValueError("torn")
