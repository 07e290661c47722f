import threading
import time
from collections.abc import Iterator

import pytest

from lmmsteer.ahead import Room, in_order


def test_results_come_in_the_order_of_the_items_whatever_ends_first() -> None:
    last = threading.Event()

    def work(number: int) -> int:
        if number == 1:
            last.set()
        if number == 0:
            assert last.wait(10)
        return number * number

    assert list(in_order(work, range(50), 3)) == [number * number for number in range(50)]


def test_no_more_than_twice_the_threads_are_taken_ahead() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(40):
            taken.append(number)
            yield number

    for result in in_order(lambda number: number, items(), 3):
        assert len(taken) <= result + 6
    assert len(taken) == 40


def test_the_first_failure_is_raised_in_its_turn_and_what_is_behind_it_is_not_begun() -> None:
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        if number == 5:
            raise ValueError("five")
        return number

    results: list[int] = []
    with pytest.raises(ValueError, match="five"):
        results.extend(in_order(work, range(1000), 2))
    assert len(begun) < 15


@pytest.mark.parametrize(("size", "together"), [(1, 8), (30, 3), (51, 1), (900, 1)])
def test_work_under_way_needs_no_more_than_there_is_and_the_first_goes_alone(
    size: int, together: int
) -> None:
    room, lock, under_way = Room(100), threading.Lock(), 0
    most: list[int] = []

    def work(number: int) -> int:
        nonlocal under_way
        with room.claim() as needed:
            with lock:
                under_way += 1
                most.append(under_way)
            time.sleep(0.002)
            with lock:
                under_way -= 1
            needed(size)
        return number

    assert list(in_order(work, range(40), 8)) == list(range(40))
    assert most[0] == 1
    assert max(most) <= together
    assert together == 1 or max(most) > 1


def test_work_that_fails_gives_its_room_back() -> None:
    room = Room(100)
    for _ in range(3):
        with pytest.raises(ValueError, match="no"), room.claim():
            raise ValueError("no")
    with room.claim() as needed:
        needed(1)
