"""VBench-I2V's names, from a list of its schema."""

import json

import pytest
from PIL import Image

from trip.evaluation.vbench import INFO, vbench_jobs

ROWS = [
    {"prompt_en": "a boat, on a lake", "dimension": ["i2v_background"], "image_type": "scenery"}
    | {"image_name": "a boat, on a lake.jpg"},
    {"prompt_en": "a boat, on a lake, camera pans left", "dimension": ["camera_motion"], "image_type": "scenery"},
    {"prompt_en": "a cat walks.", "dimension": ["i2v_subject"], "image_type": "animal", "image_name": "cat.jpg"},
]


@pytest.fixture
def data(tmp_path):
    (tmp_path / INFO).write_text(json.dumps(ROWS))
    folder = tmp_path / "data" / "crop" / "16-9"
    folder.mkdir(parents=True)
    for name in ("a boat, on a lake.jpg", "cat.jpg"):
        Image.new("RGB", (32, 18)).save(folder / name)
    return tmp_path


def test_five_clips_a_prompt_under_vbenchs_names(data):
    jobs = vbench_jobs(data, "16-9")
    assert [job.name for job in jobs[4:6]] == ["a boat, on a lake-4", "a boat, on a lake, camera pans left-0"]
    assert len(jobs) == 15 and len({job.seed for job in jobs}) == 15
    assert [job.source.name for job in jobs[::5]] == ["a boat, on a lake.jpg", "a boat, on a lake.jpg", "cat.jpg"]
    assert vbench_jobs(data / INFO, "16-9", count=1) == jobs[:5]


def changed(data, rows):
    (data / INFO).write_text(json.dumps(rows))
    return data


def test_what_is_missing_is_one_line(data, tmp_path):
    cases = [
        ((tmp_path / "no", "16-9"), "there is no .*no; name VBench's folder"),
        ((data, "1-1"), r"there is no folder of pictures .*data/crop/1-1; get it with VBench's download_data.sh"),
        ((data, "4-3"), "crop ratio '4-3' is unknown; choose one of 1-1, 8-5, 7-4, 16-9"),
    ]
    for arguments, words in cases:
        with pytest.raises(ValueError, match=words):
            vbench_jobs(*arguments)
    row = ROWS[2]
    wrong = [
        ([row | {"image_name": "dog.jpg"}], "there is no picture .*dog.jpg"),
        ([{"prompt_en": "a dog, camera static"}], "'a dog, camera static' has no image_name, nor has"),
        ([row | {"prompt_en": "either/or"}], "prompt 'either/or'... cannot name a file"),
        ([row | {"prompt_en": "x" * 260}], "over 255 bytes"),
        ({"rows": []}, "is no list of objects with prompt_en"),
    ]
    for rows, words in wrong:
        with pytest.raises(ValueError, match=words):
            vbench_jobs(changed(data, rows), "16-9")
