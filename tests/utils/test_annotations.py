"""An argument without a type has the type that the class that is extended gives it."""

from typing import get_type_hints

from lit_align.utils.annotations import inherit_annotations


class Base:
    def __init__(self, size: int, word: str = "", rate: float = 1.0) -> None: ...


class Between(Base):
    def __init__(self, *args, rate: int, **kwargs): ...


def test_what_is_left_open_is_what_the_nearest_class_that_is_extended_says():
    class Own(Between):
        def __init__(self, size, rate, word: bytes, *args, more=3, **kwargs): ...

    inherit_annotations(Own)
    assert get_type_hints(Own.__init__) == {"size": int, "rate": int, "word": bytes}


def test_a_class_without_an_init_leaves_that_of_its_base_alone():
    class Own(Between): ...

    inherit_annotations(Own)
    assert get_type_hints(Between.__init__) == {"rate": int}


def test_a_type_that_means_nothing_at_run_time_is_left_out():
    class Unknown(Base):
        def __init__(self, size: "Missing", word: int): ...  # noqa: F821

    class Own(Unknown):
        def __init__(self, size, word): ...

    inherit_annotations(Own)
    assert get_type_hints(Own.__init__) == {"size": int, "word": str}
