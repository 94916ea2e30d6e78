"""Captions that the text encoder does not see whole are counted, whatever the encoder."""

import json

import pytest

import tiny_models
from trip.data.sets.decoding import Decoding
from trip.data.sets.examples import Example
from trip.data.sets.text_limit import TextLimit
from trip.data.sources import ExampleClips, SyntheticClips
from trip.data.synthetic.procedural import procedural_bank
from trip.data.synthetic.scenes import SyntheticMotion
from trip.models import bundled_model_path
from trip.training.run import about_captions

WORDS = TextLimit(tokens=4, lengths=lambda texts: [len(text.split()) for text in texts])


@pytest.mark.parametrize(
    ("captions", "line"),
    [
        (["a b c d", "a"], ""),
        ([], ""),
        (["a b c d e", "", " ", "a"], "of 4 captions 1 have more than the text encoder's 4 tokens and are cut; "
         "shorten them, 2 are empty; write them"),
        (["", " \n"], "all 2 captions are empty: nothing can be learnt of words; write some"),
    ],
)  # fmt: skip
def test_cut_and_empty_captions_are_counted_in_one_line(captions, line):
    assert str(WORDS.count(captions)) == line


def test_of_very_many_captions_some_are_looked_at():
    counts = WORDS.count(["a b c d e", "a"] * 100_001)
    assert counts.captions == 66_668 and 0 < counts.cut < 66_668  # every third
    assert json.dumps(WORDS.count(["a"]).to_dict()) == '{"captions": 1, "limit": 4, "cut": 0, "empty": 0}'


def test_the_bundled_models_limit_is_that_of_its_encoder():
    """A word is a token here, and a text has one before and one after it: 30 words fit."""
    limit = TextLimit.read(bundled_model_path())
    assert limit.tokens == 32 and limit.lengths(["a cat", ""]) == [4, 2]
    assert limit.count(["cat " * 30, "cat " * 31, "cat " * 600]).cut == 2


def test_a_saved_pipelines_limit_is_the_loaded_ones(tmp_path):
    pipeline = tiny_models.trip_pipeline()
    pipeline.save_pretrained(tmp_path)
    read, loaded = TextLimit.read(tmp_path), TextLimit.of(pipeline.tokenizer, pipeline.max_text_tokens)
    texts = ["a", "a cat sits", ""]
    assert read.tokens == loaded.tokens and read.lengths(texts) == loaded.lengths(texts)


@pytest.mark.parametrize("content", ["[1]", "{", "{}"])
def test_a_folder_that_is_no_model_is_named(tmp_path, content):
    (tmp_path / "model_index.json").write_text(content)
    with pytest.raises(ValueError, match=str(tmp_path)):
        TextLimit.read(tmp_path)


def test_training_says_which_captions_it_does_not_see():
    pipeline = tiny_models.trip_pipeline()
    examples = [Example(key=str(i), video=b"", caption=c) for i, c in enumerate(["a", "", "cat " * 500])]
    line = about_captions(ExampleClips(examples, Decoding()), pipeline)
    assert line.startswith("of 3 captions 1 have more than") and "1 are empty" in line
    drawn = SyntheticClips(SyntheticMotion(procedural_bank(0, 16, photos=1, objects=1), 16, 2))
    assert about_captions(drawn, pipeline) == ""
