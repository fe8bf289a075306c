"""Addresses: every way to give one, and a password that never shows."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from sret_nas.errors import UsageError
from sret_nas.study.address import Address


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:sesame@db:5432/nas", "postgresql://me:***@db:5432/nas"),
        ("postgres://me@db/nas", "postgresql://me@db/nas"),
        ("postgresql+psycopg2://me:sesame@db/nas", "postgresql://me:***@db/nas"),
        ("mysql://me:ses%40me@db/nas", "mysql://me:***@db/nas"),
        ("mysql://me@db/nas?passwd=sesame&charset=utf8mb4", "mysql://me@db/nas?charset=utf8mb4"),
        ("sqlite:///runs/x/study.db", "sqlite:///runs/x/study.db"),
        ("grpc://host:13000", "grpc://host:13000"),
    ],
)
def test_shown_without_secrets(text: str, shown: str, tmp_path: Path) -> None:
    address = Address.parse(text)
    assert str(address) == repr(address) == f"{address}" == shown
    assert "sesame" not in f"{address!r} {[address]} { {'at': address} }"
    assert address.complete is ("***" not in shown and "sesame" not in text)
    file = tmp_path / "address"
    file.write_text(f"\n  {text}\n")
    assert Address.parse(f"@{file}") == address
    assert pickle.loads(pickle.dumps(address)) == address


def test_a_driver_is_chosen_where_none_is_named() -> None:
    assert Address.parse("postgresql://db/nas").secret.startswith("postgresql+psycopg://")
    assert Address.parse("mysql://db/nas").secret.startswith("mysql+pymysql://")
    assert Address.parse("postgresql+pg8000://db/nas").secret.startswith("postgresql+pg8000:")


def test_a_password_of_odd_characters_arrives_whole() -> None:
    address = Address.parse("postgresql://me:p%40%7Bx%7D%25@db/nas")
    assert address.url.password == "p@{x}%"
    assert "{" not in address.secret  # Optuna would fill it in
    assert "p@{x}%" not in address.scrub("could not connect with p@{x}%")


@pytest.mark.parametrize(
    "text", ["", "sesame", "redis://me:sesame@db", "grpc://host", "://me:sesame@x", "@/not/there"]
)
def test_what_is_no_address_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UsageError, match="--storage") as caught:
        Address.parse(text)
    assert "sesame" not in f"{caught.value} {caught.value.hint}"


def test_a_password_with_an_at_sign_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError, match="more than one @; write one in a password as %40") as told:
        Address.parse("postgresql://me:p@ssSecret@127.0.0.1:5999/nas")
    assert "Secret" not in str(told.value)
    good = Address.parse("postgresql://me:p%40ssSecret@127.0.0.1:5999/nas")
    assert "Secret" not in str(good)
