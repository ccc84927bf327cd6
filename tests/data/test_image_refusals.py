"""Images with something wrong: each is refused in one sentence that says what, where and what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_files import pictures, png, write_folder, write_parquet
from PIL import Image

from iresnet.data import load
from iresnet.errors import UserError


def bad_folders(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    """Folders and archives with something wrong, and how they are refused."""
    made = {}
    for name, told in {
        "empty": "is a folder without images",
        "corrupt": "bad.png cannot be read as an image",
        "cut": "cut.png cannot be read as an image",
        "sizes": "images must be of one size, and .*0.png has 6 x 4 pixels and .*z.png 4 x 6",
        "clear": "has pixels of mode RGBA; images must be opaque",
        "deep": "has pixels of mode I;16",
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        made[name] = folder, told
    write_folder(made["sizes"][0], pictures(1), [""])
    (made["sizes"][0] / "z.png").write_bytes(png(pictures(1, shape=(4, 6))[0]))
    (made["corrupt"][0] / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (made["cut"][0] / "cut.png").write_bytes(png(pictures(1, shape=(60, 60))[0])[:900])
    Image.fromarray(pictures(1, shape=(6, 4, 4))[0]).save(made["clear"][0] / "a.png")
    Image.fromarray(pictures(1).astype(np.uint16)[0]).save(made["deep"][0] / "a.png")
    for name, arrays, told in (
        ("dtype", {"images": pictures(20).astype(np.float32)}, "array images of .* holds float32; images are uint8"),
        ("shape", {"images": pictures(20, shape=(4, 4, 2))}, r"has shape \(20, 4, 4, 2\); images are"),
        ("twice", {"a": pictures(20), "b": pictures(20)}, "has several arrays of train images; keep one"),
        ("sets", {"x_test": pictures(20), "x_val": pictures(20)}, "images but no training images"),
        ("unlike", {"x_train": pictures(20), "x_test": pictures(20, shape=(3, 4))}, "images differ in size"),
    ):
        np.savez(tmp_path / f"{name}.npz", **arrays)  # type: ignore[arg-type]
        made[name] = tmp_path / f"{name}.npz", told
    write_parquet(tmp_path / "parquet" / "train.parquet", pictures(2), [0, 1])
    whole = (tmp_path / "parquet" / "train.parquet").read_bytes()
    (tmp_path / "parquet" / "train.parquet").write_bytes(whole[:50])
    made["parquet"] = tmp_path / "parquet", "is a folder with a damaged Parquet file, train.parquet"
    holes = pa.table({"image": pa.array([png(pictures(1)[0]), None], pa.binary())})
    (tmp_path / "holes").mkdir()
    pq.write_table(holes, tmp_path / "holes" / "train.parquet")
    made["holes"] = tmp_path / "holes", "row 1 of .* holds no image"
    return made


def test_bad_images_are_refused_in_one_sentence(tmp_path: Path) -> None:
    for path, told in bad_folders(tmp_path).values():
        with pytest.raises(UserError, match=told):
            load(path, seed=0)
