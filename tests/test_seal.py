import hashlib
import json

import pytest

from lmmsteer import seal


def test_the_digits_are_the_sha256_of_the_file_with_zeros_in_their_place() -> None:
    data = seal.close(b"before " + seal.OPEN.encode() + b" after")
    zeroed = b"before sha256, its own digits as zeros: " + b"0" * 64 + b" after"
    assert data == zeroed.replace(b"0" * 64, hashlib.sha256(zeroed).hexdigest().encode())
    assert seal.holds(data) is True


def test_every_flipped_bit_of_a_record_is_found() -> None:
    data = seal.write_record({"a": [1, 2.5, None], "b": {"ä": "\u001b 😀 1e-05"}})
    for at in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[at // 8] ^= 1 << at % 8
        with pytest.raises(ValueError):
            seal.read_record(bytes(damaged))


def test_no_cut_makes_a_record_look_like_one_of_a_version_without_seals() -> None:
    record = {"a": {"b": "c"}, "d": [1], "e": "f", "parts": []}
    data = seal.write_record(record)
    for start in range(len(data)):
        for end in range(start + 1, len(data)):
            try:
                found = seal.read_record(data[:start] + data[end:])
            except ValueError:
                continue
            # All that can be lost unseen is the seal itself, or a first key that readers ask for.
            assert found == record or "a" not in found


def test_the_words_of_the_seal_may_stand_in_a_record_and_in_rows() -> None:
    record = {"prompt": seal.OPEN, "other": seal.MARK.decode()}
    assert seal.read_record(seal.write_record(record)) == record
    data = seal.close(b"PAR1" + seal.MARK + b"x" * 80 + seal.OPEN.encode())
    assert seal.holds(data) is True


def test_a_record_reads_back_as_plain_json_and_without_its_seal() -> None:
    record = {"b": 1, "a": {"text": "Größe"}}
    data = seal.write_record(record)
    assert list(json.loads(data)) == ["seal", "b", "a"]
    assert seal.read_record(data) == record


def test_a_record_of_a_version_without_seals_is_read_and_known_as_such() -> None:
    data = json.dumps({"a": 1}).encode()
    assert seal.holds(data) is None
    assert seal.read_record(data) == {"a": 1}


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"1", b"\xff", b'{"a": 1, "seal": "none"}', b"[" * 99999]
)
def test_what_is_no_record_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        seal.read_record(data)
