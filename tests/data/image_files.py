"""Image files for tests: real ones, written by Pillow and pyarrow."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def pictures(count: int, seed: int = 0, shape: tuple[int, ...] = (6, 4)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def png(image: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format=kind, **({"lossless": True} if kind == "WEBP" else {}))
    return buffer.getvalue()


def write_parquet(path: Path, images: np.ndarray, labels: list | None, names: list[str] | None = None) -> None:
    """Images in the column ``img``, and classes in the column ``kind``, whose names the hub's metadata tell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"bytes": png(image), "path": None} for image in images]
    table = {"img": pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))}
    features: dict = {"img": {"_type": "Image"}}
    if labels is not None:
        table["kind"] = pa.array(labels)
    if names is not None:
        features["kind"] = {"names": names, "_type": "ClassLabel"}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    pq.write_table(pa.table(table).replace_schema_metadata(metadata), path)


def write_folder(folder: Path, images: np.ndarray, classes: list[str]) -> None:
    for place, (image, name) in enumerate(zip(images, classes, strict=True)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / f"{place:03}.png").write_bytes(png(image))
