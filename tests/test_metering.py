import time

import pytest

from seqgan_hf.metering import CpuClock, Meter


def test_values_are_averaged_and_seconds_are_per_update():
    meter = Meter()
    for value in (1.0, 3.0):
        meter.add({"loss": value}, prefix="d/")
        with meter.phase("rollout"):
            time.sleep(0.02)
    read = meter.read(per=2)
    assert read["d/loss"] == 2 and 0.02 <= read["seconds/rollout"] < 0.2
    assert list(meter.read()) == ["seconds/other"]


def test_seconds_add_up_to_the_time_since_the_last_reading():
    meter = Meter()
    start = time.perf_counter()
    meter.read()
    with meter.phase("rollout"):
        time.sleep(0.02)
        with meter.phase("score"):
            time.sleep(0.01)
    time.sleep(0.03)
    read = meter.read(per=2)
    assert read["seconds/other"] >= 0.015
    assert sum(read.values()) == pytest.approx((time.perf_counter() - start) / 2, rel=0.05)


def test_an_inner_phase_counts_for_itself_alone():
    meter = Meter()
    with meter.phase("rollout"):
        for _ in range(2):
            with meter.phase("score"):
                time.sleep(0.03)
    read = meter.read()
    assert read["seconds/score"] >= 0.06 and read["seconds/rollout"] < 0.03


def test_a_listener_hears_of_each_phase_and_of_the_outer_one_when_it_is_left_or_fails():
    heard = []
    meter = Meter()
    meter.listener = heard.append
    with meter.phase("rollout"), meter.phase("score"):
        pass
    with pytest.raises(RuntimeError), meter.phase("generator"):
        raise RuntimeError
    assert heard == ["rollout", "score", "rollout", None, "generator", None]


def test_a_clock_counts_cpu_time_alone_and_begins_anew_each_time(monkeypatch):
    clock = CpuClock()
    assert clock.read() == 0
    now = iter((10.0, 12.5, 12.5, 100.0, 101.0))
    monkeypatch.setattr("seqgan_hf.metering.time.process_time", lambda: next(now))
    with clock.running():
        assert clock.read() == 2.5
    assert clock.read() == 2.5
    with pytest.raises(KeyError), clock.running():
        raise KeyError
    assert clock.read() == 1


@pytest.mark.parametrize(("before", "after"), [(50.0, 52.5), (None, None)])
def test_a_clock_that_is_resumed_adds_what_was_before_where_that_is_known(before, after, monkeypatch):
    now = iter((10.0, 12.5))
    monkeypatch.setattr("seqgan_hf.metering.time.process_time", lambda: next(now))
    clock = CpuClock()
    with clock.running():
        clock.before = before
    assert clock.read() == after
