"""One reader of text: what it takes, what it refuses, and how a stranger's text is shown."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trip.data.text import decode, parse_json, printable, read_csv, read_json, read_jsonl, read_lines, read_text

TEXT = "a fish\n镜头向左平移 é\u2028still the second line"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf8_and_what_has_a_mark_are_read(tmp_path, encoding):
    mark = {"utf-16-le": "\ufeff", "utf-16-be": "\ufeff"}.get(encoding, "")
    path = tmp_path / "prompts.txt"
    path.write_bytes((mark + TEXT.replace("\n", "\r\n")).encode(encoding))
    assert read_text(path) == TEXT
    assert list(read_lines(path)) == TEXT.split("\n")


@pytest.mark.parametrize(
    "content", ["Caf\xe9".encode("cp1252"), b"\x93quoted\x94", "text".encode("utf-16-le") + b"\xd8"]
)
def test_other_encodings_are_a_fault_that_names_the_file(tmp_path, content):
    path = tmp_path / "prompts.txt"
    path.write_bytes(content if content[:1] != b"t" else b"\xff\xfe" + content)
    for read in (read_text, lambda p: list(read_lines(p)), read_json, lambda p: list(read_csv(p))):
        with pytest.raises(ValueError, match=r"prompts\.txt.*(UTF-8|not JSON)"):
            read(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le"])
def test_nul_characters_are_no_text(tmp_path, encoding):
    """UTF-16 without a mark is valid UTF-8 where all characters are ASCII."""
    path = tmp_path / "prompts.txt"
    path.write_bytes(("a cat\n" if encoding == "utf-16-le" else "a\0cat\n").encode(encoding))
    for read in (read_text, lambda p: list(read_lines(p))):
        with pytest.raises(ValueError, match=r"prompts\.txt holds NUL characters.*save it as UTF-8"):
            read(path)


def test_bad_rows_are_told_and_the_others_read(tmp_path):
    told = []
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n[2]\n{oops\n' + "[" * 99999 + '\n{"a": 5}\n')
    (tmp_path / "a.csv").write_text("a,b\n1,2\n1,2,3\n4,5\n")
    rows = list(read_jsonl(tmp_path / "a.jsonl", lambda *fault: told.append(fault)))
    assert rows == [(1, {"a": 1}), (5, {"a": 5})] and [number for number, _ in told] == [2, 3, 4]
    rows = list(read_csv(tmp_path / "a.csv", lambda *fault: told.append(fault)))
    assert [number for number, _ in rows] == [2, 4] and told[-1][0] == 3 and "more values" in told[-1][1]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_lf_and_cr_end_a_line(tmp_path, mark):
    path = tmp_path / "list.jsonl"
    path.write_text(
        f'{{"prompt": "a{mark if ord(mark) > 31 else ""}b"}}\r\n\n{{"prompt": "c"}}', encoding="utf-8", newline=""
    )
    assert [number for number, _ in read_jsonl(path)] == [1, 3]
    assert next(iter(read_jsonl(path)))[1]["prompt"] == f"a{mark if ord(mark) > 31 else ''}b"


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 10_000, "{", "nul", "", "\ud800"])
def test_bad_json_is_one_line_that_names_it(text):
    with pytest.raises(ValueError, match=r"^row 3 is n") as caught:
        parse_json(text, "row 3")
    assert "\n" not in str(caught.value)


def test_a_csv_may_quote_line_ends_and_names_its_faults(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text('image,prompt\na.png,"two\nlines, one text"\nb.png\n', encoding="utf-16")
    assert list(read_csv(path)) == [
        (3, {"image": "a.png", "prompt": "two\nlines, one text"}),
        (4, {"image": "b.png", "prompt": ""}),
    ]
    path.write_text("image,prompt\na.png,one,two\n")
    with pytest.raises(ValueError, match=r"list\.csv line 2 has more values"):
        list(read_csv(path))
    path.write_text('image,prompt\na.png,"open\n')
    with pytest.raises(ValueError, match=r"list\.csv line \d is not CSV"):
        list(read_csv(path))


def test_devices_pipes_folders_and_impossible_names_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero", tmp_path / "none", "a\0b"):
        with pytest.raises(ValueError, match=r"no file|cannot be read"):
            read_text(path)


@given(st.text(st.characters(codec=None, categories=None)))
def test_what_is_shown_stays_on_one_line_and_moves_no_cursor(text):
    shown = printable(text)
    assert shown.isprintable() and len(shown.splitlines()) <= 1
    shown.encode("utf-8")


def test_printable_text_is_shown_as_it_is():
    assert printable("a castle – 城堡 é") == "a castle – 城堡 é"
    assert printable("a\x1b[31m\u202eb\n\ud800") == r"a\x1b[31m\u202eb\n\ud800"
    assert printable("x" * 50, limit=10) == "xxxxxxx..."


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_decoding_reads_back_what_utf8_wrote(text):
    plain = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    assert decode(text.encode("utf-8"), "x") == plain
