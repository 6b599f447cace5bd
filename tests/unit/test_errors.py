"""Errors cross process boundaries whole."""

from __future__ import annotations

import inspect
import pickle

import pytest

import prism_ssl.errors
from prism_ssl.errors import PrismError

CLASSES = [
    value for value in vars(prism_ssl.errors).values() if inspect.isclass(value) and issubclass(value, PrismError)
]


def _arguments(kind: type[PrismError]) -> tuple[str, ...]:
    return tuple(f"the {name} of it" for name in inspect.signature(kind).parameters)


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_survives_pickling_in_type_text_and_attributes(kind: type[PrismError]) -> None:
    error = kind(*_arguments(kind))
    other = pickle.loads(pickle.dumps(error))
    assert type(other) is kind
    assert str(other) == str(error)
    assert vars(other) == vars(error)


@pytest.mark.parametrize("kind", CLASSES)
def test_the_text_of_an_error_says_all_it_was_told(kind: type[PrismError]) -> None:
    error = kind(*_arguments(kind))
    if list(inspect.signature(kind).parameters) == ["message"]:
        assert str(error) == "the message of it"
    else:
        assert [part for part in _arguments(kind) if part not in str(error)] == []
        assert set(_arguments(kind)) <= set(vars(error).values()) - {error._args}


@pytest.mark.parametrize("kind", [kind for kind in CLASSES if kind is not PrismError])
def test_an_error_is_also_one_of_pythons_own_kinds(kind: type[PrismError]) -> None:
    assert issubclass(kind, (ValueError, RuntimeError, OSError, ArithmeticError))
    with pytest.raises(PrismError, match="of it"):
        raise kind(*_arguments(kind))
