"""Streaming the clips of a folder."""

import numpy as np
import pytest
import torch

from trip.data.video.writing import write_video
from trip.evaluation.clips import clip_files, stream_clips


def frames(count: int = 4, height: int = 8, width: int = 10, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_clips_come_sorted_in_batches_of_one_size(tmp_path):
    clips = {name: frames(seed=i) for i, name in enumerate("dabc")}
    clips["c"] = frames(height=6)
    for name, clip in clips.items():
        write_video(f"{tmp_path / name}/", clip, fps=5)
    write_video(tmp_path / "e.mp4", frames(), metadata={"prompt": "it pans"})
    (tmp_path / "a.txt").write_text("the text beside\n")
    (tmp_path / "notes.txt").write_text("no clip")
    (tmp_path / ".hidden.mp4").write_bytes(b"")
    batches = list(stream_clips(tmp_path, batch_size=2))
    assert [[file.stem for file in batch.files] for batch in batches] == [["a", "b"], ["c"], ["d", "e"]]
    assert torch.equal(batches[0].clips, torch.from_numpy(np.stack([clips["a"], clips["b"]])))
    assert batches[0].fps == [5, 5] and batches[0].prompts == ["the text beside", ""]
    assert batches[2].prompts == ["", "it pans"]


def test_the_first_frames_may_be_asked_for(tmp_path):
    for name, count in (("a", 5), ("b", 7)):
        write_video(f"{tmp_path / name}/", frames(count))
    [batch] = stream_clips(tmp_path, num_frames=4)
    assert batch.clips.shape == (2, 4, 8, 10, 3) and torch.equal(batch.clips[0], batch.clips[1])


@pytest.mark.parametrize(
    "num_frames, words",
    [(None, r"b has 5 frames, a has 4; take the first 4 of all \(--num-frames 4\)"), (5, "a has 4 frames, not 5")],
)
def test_other_numbers_of_frames_are_refused_by_name(tmp_path, num_frames, words):
    for name, count in (("a", 4), ("b", 5)):
        write_video(f"{tmp_path / name}/", frames(count))
    with pytest.raises(ValueError, match=words):
        list(stream_clips(tmp_path, num_frames))


def test_a_broken_clip_is_named(tmp_path):
    write_video(tmp_path / "a.mp4", frames())
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "b.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"b\.mp4") as caught:
        list(stream_clips(tmp_path))
    assert "\n" not in str(caught.value)


def test_empty_and_missing_folders(tmp_path):
    with pytest.raises(ValueError, match="holds no clips"):
        clip_files(tmp_path)
    with pytest.raises(ValueError, match="is no folder"):
        list(stream_clips(tmp_path / "absent"))
