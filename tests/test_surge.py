"""Surges are found, how often chance is taken for one is as stated, and nothing depends on what comes later."""

import math
import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bench.synthetic import calm, drawn, rates, surges
from pipeline.surge.baseline import DAY, fit
from pipeline.surge.odds import odds, once_in
from pipeline.surge.rearm import Rearm
from pipeline.surge.sensitivity import WEEK, alarms_per_week, allowance
from pipeline.surge.series import Series, follow
from pipeline.surge.share import Confusion, fit_share, judge_share, perfect
from pipeline.surge.tails import count_tail, normal_equivalent, normal_tail
from pipeline.surge.volume import Plan
from schemas.errors import ConfigError, UsageError

HOUR = 3600.0
QUARTER = 900.0


def quiet(weeks: float = 3, rate: float = 60.0, seed: int = 3, step: float = QUARTER) -> Series:
    expected = rates(rate, weeks * WEEK, step)
    return Series("quiet", 0.0, step, drawn("poisson", expected, np.random.default_rng(seed)))


# Tails


@pytest.mark.parametrize("dispersion", [1.0, 2.0, 40.0])
@pytest.mark.parametrize("mean", [0.2, 7.0, 300.0])
def test_a_count_tail_is_the_sum_of_its_probabilities(mean: float, dispersion: float) -> None:
    count, size = int(mean + 4 * math.sqrt(mean * dispersion)) + 1, mean / max(dispersion - 1, 1e-9)

    def mass(k: int) -> float:
        if dispersion == 1:
            return math.exp(k * math.log(mean) - mean - math.lgamma(k + 1))
        ways = math.lgamma(k + size) - math.lgamma(size) - math.lgamma(k + 1)
        return math.exp(ways - size * math.log(dispersion) + k * math.log1p(-1 / dispersion))

    summed = mass(count) / 2 + sum(mass(k) for k in range(count + 1, count + 4000))

    assert float(count_tail(count, mean, dispersion)) == pytest.approx(math.log(summed), abs=1e-6)


def test_a_normal_equivalent_is_the_inverse_of_the_tail_far_out_too() -> None:
    z = np.array([-3.0, 0.0, 2.0, 9.9, 10.1, 40.0])

    assert normal_equivalent(normal_tail(z)) == pytest.approx(z, abs=1e-6)


# The baseline


def test_the_baseline_follows_the_season_of_a_day() -> None:
    series = quiet(2)
    found = fit(series.counts, 0.0, QUARTER, HOUR)
    night, noon = found.expected(np.array([0.0, 11.5 * HOUR]), np.array([HOUR, 12.5 * HOUR])).tolist()

    assert night == pytest.approx(30, rel=0.15)
    assert noon == pytest.approx(90, rel=0.15)


def test_a_day_of_surges_hardly_moves_the_baseline() -> None:
    series = quiet(2)
    loud = series.counts.copy()
    loud[6 * 96 : 7 * 96] *= 5

    calm, moved = (fit(each, 0.0, QUARTER, HOUR) for each in (series.counts, loud))

    assert sum(moved.rates) == pytest.approx(sum(calm.rates), rel=0.07)


def test_weekends_that_are_much_quieter_are_expected_to_be() -> None:
    series = quiet(2)
    days = (np.arange(len(series.counts)) // 96) % 7
    found = fit(np.where((days == 2) | (days == 3), series.counts // 4, series.counts), 0.0, QUARTER, HOUR)

    assert found.weekend[0] < 0.4 < 1.0 < found.weekend[1]


# Sensitivity


def test_half_the_budget_needs_rarer_evidence() -> None:
    assert allowance(1.0, 1000, 6 * HOUR) < allowance(1.0, 10, 6 * HOUR) < allowance(1.0, 1, 6 * HOUR)


def test_finer_steps_add_little_to_how_often_a_level_is_reached() -> None:
    z = np.array(3.0)
    hourly, often, always = (float(np.exp(alarms_per_week(z, every, HOUR))) for every in (HOUR, 300.0, 10.0))

    assert hourly == pytest.approx(168 * 0.00135, rel=0.05)
    assert hourly < often < always < 12 * hourly


def test_the_stated_number_of_false_alerts_holds() -> None:
    found = calm(
        "negative binomial", 60.0, weeks=12, seed=4, plan=Plan(every=QUARTER, sensitivity=4.0), step=QUARTER
    )

    assert found.ratio == pytest.approx(1.0, abs=0.3)


def test_surges_of_three_times_the_usual_are_found_within_the_hour() -> None:
    found = surges("poisson", 60.0, many=5, plan=Plan(every=300.0), step=300.0)

    assert found.found == 5
    assert found.delay <= 30


# Decisions on a series


def with_surge(row: int, times: float = 4.0) -> Series:
    series = quiet()
    counts = series.counts.copy()
    counts[row : row + 8] = np.round(counts[row : row + 8] * times)
    return Series("surge", 0.0, QUARTER, counts)


def test_a_surge_is_one_alert_with_its_evidence() -> None:
    row = 17 * 96 + 48
    [alert] = [each for each in follow(with_surge(row), Plan()).alerts if row <= each.row < row + 8]

    assert alert.value > 1.4 * alert.expected
    assert alert.over
    assert alert.last < row + 32


def test_no_decision_looks_ahead() -> None:
    series = with_surge(17 * 96)
    whole = follow(series, Plan())
    for rows in (15 * 96 + 7, 17 * 96 + 3, 18 * 96 + 50):
        part = follow(Series("part", 0.0, QUARTER, series.counts[:rows]), Plan())
        assert [each.row for each in part.alerts] == [each.row for each in whole.alerts if each.row < rows]
        np.testing.assert_array_equal(part.expected, whole.expected[:rows])


def test_what_lies_before_the_baseline_changes_nothing() -> None:
    series = quiet(5)
    other = series.counts.copy()
    other[: 7 * 96] *= 3

    ours, theirs = (follow(Series("s", 0.0, QUARTER, each), Plan()) for each in (series.counts, other))

    np.testing.assert_array_equal(ours.expected[22 * 96 :], theirs.expected[22 * 96 :])


def test_a_young_baseline_asks_for_extreme_evidence() -> None:
    counts = quiet(1).counts
    counts[96 + 50 : 96 + 54] = 31

    assert follow(Series("young", 0.0, QUARTER, counts), Plan()).alerts == ()
    counts[96 + 50 : 96 + 54] = 400
    assert len(follow(Series("young", 0.0, QUARTER, counts), Plan()).alerts) == 1


def test_a_silence_of_hours_is_an_alert_and_ends_with_the_next_event() -> None:
    counts = quiet().counts
    counts[17 * 96 + 40 : 17 * 96 + 60] = 0
    [alert] = follow(Series("silent", 0.0, QUARTER, counts), Plan(), "absence").alerts

    assert 17 * 96 + 40 <= alert.row <= 17 * 96 + 46
    assert alert.last == 17 * 96 + 59


def test_bursts_do_not_hide_that_what_always_spoke_falls_silent() -> None:
    rng = np.random.default_rng(1)
    # Never fewer than forty in a quarter, and now and then thousands.
    counts = rng.poisson(50.0, 21 * 96).astype(float) + 3_000 * (rng.random(21 * 96) < 0.02)
    counts[18 * 96 :] = 0
    [alert] = follow(Series("silent", 0.0, QUARTER, counts), Plan(window=6 * 3600.0), "absence").alerts

    assert alert.row == 18 * 96 + 23


def test_a_window_that_the_series_cannot_tell_is_refused() -> None:
    with pytest.raises(UsageError, match="the rows of quiet are 900 s apart, and a window of 1000 s is no whole"):
        follow(quiet(), Plan(window=1000.0))


# Re-arming


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=200), st.integers(1, 40), st.integers(0, 5))
def test_a_flapping_signal_fires_and_resolves_once_in_a_rearm_time_at_most(
    signal: list[tuple[bool, bool]], rearm: int, hold: int
) -> None:
    state, begun, resolved = Rearm(float(rearm), hold=float(hold)), [], []
    for moment, (fires, holds) in enumerate(signal):
        turns = [turn for turn, _ in state.step(float(moment), fires, holds)]
        begun += [moment] if "firing" in turns else []
        resolved += [moment] if "resolved" in turns else []

    for moments in (begun, resolved):
        assert all(later - earlier >= rearm for earlier, later in pairwise(moments))
    assert len(resolved) <= len(begun) <= len(resolved) + 1


@settings(deadline=None, max_examples=20)
@given(st.randoms(use_true_random=False))
def test_the_order_of_events_within_a_tick_changes_nothing(rng: random.Random) -> None:
    events = [(tick, number) for tick in range(20) for number in range(tick % 4)]
    mixed = sorted(events, key=lambda event: (event[0], rng.random()))

    def counted(given: list[tuple[int, int]]) -> list[int]:
        return np.bincount([tick for tick, _ in given], minlength=20).tolist()

    assert fit(counted(mixed), 0.0, QUARTER, HOUR) == fit(counted(events), 0.0, QUARTER, HOUR)


# The share

LABELS = ("negative", "neutral", "positive")
CONFUSED = Confusion(LABELS, ((0.8, 0.15, 0.05), (0.15, 0.8, 0.05), (0.02, 0.08, 0.9)))


def shares(truth: tuple[float, ...], total: int = 40, windows: int = 14 * 24, seed: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.multinomial(total, np.array(truth) @ CONFUSED.matrix, size=windows).astype(float)


def fires(window: list[float], confusion: Confusion = CONFUSED) -> bool:
    usual = fit_share(shares((0.2, 0.3, 0.5)), HOUR, HOUR, confusion, ["negative"])
    return bool(judge_share(Plan(), np.array([window]), [usual], confusion, ["negative"]).judgement.fires[0])


def test_a_surge_of_volume_is_none_of_mood() -> None:
    assert not fires((400 * np.array((0.2, 0.3, 0.5)) @ CONFUSED.matrix).round().tolist())


def test_a_surge_of_mood_is_seen_with_and_without_one_of_volume() -> None:
    for total in (40, 400):
        assert fires((total * np.array((0.6, 0.2, 0.2)) @ CONFUSED.matrix).round().tolist())


def test_labels_that_are_mistaken_for_the_watched_one_are_no_surge_of_it() -> None:
    neutral = (4000 * np.array((0.2, 0.75, 0.05)) @ CONFUSED.matrix).round().tolist()

    assert not fires(neutral)
    assert fires(neutral, perfect(LABELS))


def test_the_share_is_that_of_the_truth() -> None:
    usual = fit_share(shares((0.2, 0.3, 0.5)), HOUR, HOUR, CONFUSED, ["negative"])
    window = 1000 * np.array([(0.5, 0.3, 0.2)]) @ CONFUSED.matrix
    found = judge_share(Plan(), window, [usual] * len(window), CONFUSED, ["negative"])

    assert found.value[0] == pytest.approx(0.5, abs=0.01)
    assert found.expected[0] == pytest.approx(0.2, abs=0.02)


def test_a_matrix_that_tells_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="confuses its labels so much"):
        Confusion(("a", "b"), ((0.5, 0.5), (0.5, 0.5))).weights(["a"])


# Words


@pytest.mark.parametrize(
    ("value", "expected", "years", "told"),
    [
        (120, 10, 3, "12 times the usual; expected once in 3 years"),
        (0, 12, 1, "none where 12 are usual; expected once in 1 year"),
        (36, 10, 1e9, "3.6 times the usual; expected once in more than a million years"),
    ],
)
def test_odds_are_words(value: float, expected: float, years: float, told: str) -> None:
    assert odds(value, expected, -math.log(years * 365.25 * DAY / WEEK)) == told


def test_what_is_no_rarity_may_happen_at_any_time() -> None:
    assert once_in(math.inf) == "at any time"
