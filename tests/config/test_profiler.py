"""The profiler's option string."""

from __future__ import annotations

import pytest

from ppvision.config import Profiler, parse_profiler
from ppvision.errors import UserError


def test_the_string_of_the_benchmark_script_with_its_own_quotes():
    text = "'batch_range=[10,20];state=GPU;tracer_option=Default;profile_path=model.profile;timer_only=False'"
    expected = Profiler((10, 20), "GPU", "total", "Default", "model.profile", True, False)
    assert parse_profiler(text) == expected


def test_empty_means_defaults():
    assert parse_profiler("") == Profiler()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batchrange=[1,2]", "flag: unknown key 'batchrange'; did you mean 'batch_range'?"),
        ("batch_range=[2,2]", "flag: 'batch_range' must be [first,last) with 0 <= first < last, got [2,2]"),
        ("batch_range=3", "flag: 'batch_range' must be a list of 2 (an integer each), got 3"),
        ("state=NPU", "flag: 'state' must be one of CPU, GPU, All, got the text 'NPU'"),
        ("timer_only=maybe", "flag: 'timer_only' must be true or false, got the text 'maybe'"),
        ("state", "flag: expected key=value;key=value, got 'state'"),
    ],
)
def test_faults(text, message):
    with pytest.raises(UserError) as caught:
        parse_profiler(text, "flag")
    assert str(caught.value) == message
