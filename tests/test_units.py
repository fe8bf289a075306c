"""The grammar of budgets, and quantities for people."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sret_nas.errors import BudgetError, ConfigError, UsageError
from sret_nas.units import (
    BINARY,
    SI,
    Budget,
    format_count,
    format_quantity,
    parse_budgets,
    parse_duration,
)

UNIT_OF = {"macs": "MACs", "params": "params", "peak_bytes": "B"}


@pytest.mark.parametrize(
    ("text", "metric", "limit", "batch"),
    [
        ("4GFLOPs", "macs", 4_000_000_000, 1),
        ("4GMACs", "macs", 4_000_000_000, 1),
        ("4 gflop", "macs", 4_000_000_000, 1),
        ("900M MACs", "macs", 900_000_000, 1),
        ("900 M MACs", "macs", 900_000_000, 1),
        ("4e9macs", "macs", 4_000_000_000, 1),
        ("1.2GMACs", "macs", 1_200_000_000, 1),
        ("0.001TMACs", "macs", 1_000_000_000, 1),
        ("5Mparams", "params", 5_000_000, 1),
        ("5M params", "params", 5_000_000, 1),
        ("5mparams", "params", 5_000_000, 1),
        ("4.755979M params", "params", 4_755_979, 1),
        ("2ms", "latency_ms", 2.0, 1),
        (" .5 MS ", "latency_ms", 0.5, 1),
        ("2ms@32", "latency_ms", 2.0, 32),
        ("2 ms @ 32", "latency_ms", 2.0, 32),
        ("500MB", "peak_bytes", 500_000_000, 1),
        ("1GiB", "peak_bytes", 2**30, 1),
        ("1.5kib", "peak_bytes", 1536, 1),
        ("3 Mi B", "peak_bytes", 3 * 2**20, 1),
        ("800 bytes", "peak_bytes", 800, 1),
        ("1.9 params", "params", 1, 1),
    ],
)
def test_what_is_accepted(text: str, metric: str, limit: float, batch: int) -> None:
    budget = Budget.parse(text)
    assert (budget.metric, budget.limit, budget.batch) == (metric, limit, batch)
    assert type(budget.limit) is (float if metric == "latency_ms" else int)
    assert budget.text == text.strip()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("4G", "no unit"),
        ("4Gi", "no unit"),
        ("4", "no unit"),
        ("5 foos", "unknown unit 'foos'"),
        ("1KiMACs", "unknown unit 'KiMACs'"),
        ("1Miparams", "unknown unit"),
        ("2Gms", "unknown unit 'Gms'"),
        ("2 m s", "unknown unit"),
        ("0MACs", "more than 0"),
        ("-1GMACs", "more than 0"),
        ("nan MACs", "finite"),
        ("NaNms", "finite"),
        ("infGMACs", "finite"),
        ("-inf ms", "finite"),
        ("0.2params", "at least 1"),
        ("1e400MACs", "less than"),
        ("1e24MACs", "less than"),
        ("1e999999999MACs", "no number with a unit"),
        ("1e-9999ms", "more than 0"),
        ("4GMACs@32", "only after ms"),
        ("2ms@", "batch size"),
        ("2ms@0", "batch size"),
        ("2ms@-3", "batch size"),
        ("2ms@1.5", "batch size"),
        ("2ms@1000001", "batch size"),
        ("2ms@٣", "batch size"),
        ("٣ms", "no number with a unit"),
        ("MACs", "no number with a unit"),
        ("", "no number with a unit"),
        ("1" * 100 + "MACs", "no number with a unit"),
        ("4GMACs 5Mparams", "no number with a unit"),
    ],
)
def test_what_is_refused_says_what_is_accepted(text: str, says: str) -> None:
    with pytest.raises(BudgetError, match="budget ") as caught:
        Budget.parse(text)
    assert says in str(caught.value)
    assert f"'{text}'" in str(caught.value)
    assert caught.value.exit_code == 2 and isinstance(caught.value, ConfigError)
    for form in ("4GMACs", "4GFLOPs", "5Mparams", "2ms@32", "1GiB"):
        assert form in str(caught.value.hint)


def test_a_number_is_not_a_budget() -> None:
    with pytest.raises(BudgetError, match="given a int"):
        parse_budgets([4])  # type: ignore[list-item]


def test_several_bounds_each_with_its_own_error() -> None:
    budgets = parse_budgets(["4GMACs", Budget("params", 5), "2ms", "3ms@32"])
    assert [b.key for b in budgets] == ["macs", "params", "latency_ms", "latency_ms@32"]
    with pytest.raises(BudgetError) as caught:
        parse_budgets(["4G", "1GMACs", "0ms", "2GFLOPs"])
    first, second, third = str(caught.value).splitlines()
    assert "'4G'" in first and "'0ms'" in second and "'2GFLOPs'" in third and "'1GMACs'" in third


def test_one_text_is_one_budget() -> None:
    assert parse_budgets("4GMACs") == (Budget("macs", 4_000_000_000, text="4GMACs"),)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted(UNIT_OF)),
    st.decimals("0.001", "999.999", places=3),
    st.sampled_from(["", *"kmgtKMGT", "Ki", "Mi", "Gi"]),
)
def test_counts_are_exact(metric: str, number: Decimal, prefix: str) -> None:
    if prefix.lower() in BINARY and metric != "peak_bytes":
        prefix = prefix[0]
    exact = number * (SI | BINARY)[prefix.lower()]
    text = f"{number}{prefix}{UNIT_OF[metric]}"
    if exact < 1:
        with pytest.raises(BudgetError, match="at least 1"):
            Budget.parse(text)
    else:
        assert Budget.parse(text).limit == int(exact)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=20) | st.from_regex(r"[0-9.e+-]{1,6} ?[KMGTimacsprbFLO@ ]{0,8}"))
def test_any_text_is_a_budget_or_refused(text: str) -> None:
    try:
        budget = Budget.parse(text)
    except BudgetError:
        return
    assert budget.limit > 0 and budget.batch >= 1


def test_quantities_for_people() -> None:
    assert format_quantity("macs", 1_112_444_672) == "1.11G MACs"
    assert format_quantity("params", 4_755_979) == "4.76M params"
    assert format_quantity("peak_bytes", 20_500_000) == "20.5 MB"
    assert format_quantity("latency_ms", 2.0) == "2 ms"
    assert format_quantity("latency_ms", 12_345.6) == "12,346 ms"
    assert format_quantity("params", 999_999) == "1M params"
    assert format_count(999.4) == "999" and format_count(0) == "0"
    assert format_count(10**16) == "10,000T"
    assert str(Budget.parse("2ms@32")) == "2 ms@32"


@given(
    metric=st.sampled_from([*UNIT_OF, "latency_ms"]),
    number=st.floats(1e-3, 1e15),
    batch=st.integers(1, 1000),
)
def test_exact_is_the_same_bound(metric: str, number: float, batch: int) -> None:
    latency = metric == "latency_ms"
    limit = number if latency else int(number) + 1
    budget = Budget(metric, limit, batch if latency else 1)
    again = Budget.parse(budget.exact)
    assert (again.key, again.limit) == (budget.key, limit)


def test_exact_is_short_where_it_can_be() -> None:
    assert Budget.parse("4GFLOPs").exact == "4G MACs"
    assert Budget.parse("1000ms@2").exact == "1000.0 ms@2"
    assert Budget.parse("1234567 params").exact == "1234567 params"


@pytest.mark.parametrize(
    ("written", "seconds"), [("90s", 90), ("1.5h", 5400), (" 2 min ", 120), ("7", 7), (2.5, 2.5)]
)
def test_durations(written: float | str, seconds: float) -> None:
    assert parse_duration(written) == seconds


@pytest.mark.parametrize("written", ["", "0s", "-1s", "1 day", "nan", "1e3s", "s"])
def test_what_is_no_duration(written: str) -> None:
    with pytest.raises(UsageError, match="timeout: given"):
        parse_duration(written)
