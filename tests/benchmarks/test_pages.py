"""Pages with tables that benchmarks fill."""

import pytest
from benchmarks.pages import fill_pages, markdown, tables_of, with_tables, write_json

PAGE = "a\n<!-- table: one -->\nold\n<!-- end -->\nb\n<!-- table: two -->\n<!-- end -->\n"


def test_a_table_is_replaced_and_the_others_stay(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    fill_pages([path], {"one": markdown(["x", "y"], [[1, 2]])})
    assert path.read_text() == PAGE.replace("old", "| x | y |\n| --- | ---: |\n| 1 | 2 |").replace(
        "two -->\n", "two -->\n\n"
    )
    again = path.read_text()
    fill_pages([path], {})
    assert path.read_text() == again and list(tables_of(again)) == ["one", "two"]


def test_a_table_goes_to_the_page_that_has_a_place_for_it(tmp_path):
    first, second = tmp_path / "first.md", tmp_path / "second.md"
    first.write_text(PAGE.replace("two", "three"))
    second.write_text(PAGE)
    fill_pages([first, second], {"two": "x", "three": "y"})
    assert tables_of(first.read_text()) == {"one": "old", "three": "y"}
    assert tables_of(second.read_text()) == {"one": "old", "two": "x"}


def test_tables_without_a_place_and_places_without_a_table_are_named(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    with pytest.raises(ValueError, match="has no table 'three'"):
        fill_pages([path], {"three": "x"})
    assert path.read_text() == PAGE
    with pytest.raises(ValueError, match="table 'two' is unknown; choose from one"):
        with_tables(PAGE, {"one": "x"})


def test_results_are_written_whole(tmp_path):
    write_json(tmp_path / "new" / "results.json", {"text": "σ"})
    assert (tmp_path / "new" / "results.json").read_text() == '{\n "text": "σ"\n}\n'
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["results.json"]
    with pytest.raises(TypeError):
        write_json(tmp_path / "new" / "results.json", {"no": {1, 2}})
    assert (tmp_path / "new" / "results.json").read_text() == '{\n "text": "σ"\n}\n'
