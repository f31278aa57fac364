"""Result files that are damaged at random; ``python -m tests.result.mutants 10000``
loads and uses so many, and says what came of them."""

import argparse
import json
import random
import struct
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from captum_dexar import VLMAttributionResult
from captum_dexar.maps.layout import ImageLayout, View
from captum_dexar.maps.segments import SegmentLayout
from captum_dexar.result.page import page_of
from PIL import Image
from tests.result.test_result import make_result

ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    -1,
    0,
    1,
    3,
    10**6,
    2**31,
    2**63,
    10**30,
    1e-12,
    1e308,
    -0.5,
    float("inf"),
    float("nan"),
    "",
    "a\ud800",
    [],
    {},
    [[]],
    [1, 1],
    {"a": 1},
)
# Numbers whose product or quotient may be anything.
NUMBERS = (0, 1, 2, 3, 7, 2**10, 2**20, 2**24, 2**28, 1e-3, 1e-6, 1e6, -1e6, 0.5, 1e9)
# Refusing takes no time; longer may be a loop, or a map without end.
MOST_SECONDS = 20.0


def originals() -> list[VLMAttributionResult]:
    """Results of every kind of layout."""
    tiles = (
        View("tile", (2, 2), (0.0, 0.0, 40.0, 30.0), 0, row_stride=3),
        View("tile", (2, 2), (0.0, 30.0, 40.0, 60.0), 6, row_stride=3),
        View("global", (1, 2), (-10.0, 0.0, 50.0, 60.0), 12),
    )
    size = (40, 60)
    images = [Image.new("RGB", (60, 40)), Image.new("RGB", (8, 8))]
    two = (
        View("full", (2, 2), (0.0, 0.0, 40.0, 60.0)),
        View("full", (2, 2), (0.0, 0.0, 8.0, 8.0), 4, image=1),
    )
    masks = torch.zeros(2, 40, 60, dtype=torch.bool)
    masks[0, :10], masks[1, 5:] = True, True
    nowhere = (View("a", (2, 3), None), View("b", (3, 1), None, 6))
    return [
        make_result(),
        _with(ImageLayout(15, tiles, (size,)), 10),
        _with(ImageLayout(8, two, (size, (8, 8))), 8, images=images),
        _with(SegmentLayout.of_masks(masks, ["one", "two"], size), 2),
        _with(ImageLayout(9, nowhere), 9, images=[]),
    ]


def _with(layout: ImageLayout, columns: int, **changes: Any) -> VLMAttributionResult:
    generator = torch.Generator().manual_seed(1)
    attr = torch.rand(5, columns, generator=generator)
    return make_result(
        layout=layout,
        token_attr=attr,
        seq_attr=attr.sum(0),
        placeless_attr=None,
        layer_attr=attr[:, None].expand(5, 3, columns) / 3,
        **changes,
    )


def mutants(path: Path, seed: int) -> Iterator[tuple[str, bytes]]:
    """Endlessly, what was done to the content of a result file, and the content."""
    generator = random.Random(seed)
    contents = []
    for result in originals():
        result.save(path)
        contents.append(path.read_bytes())
    while True:
        name = generator.choice(list(_WAYS))
        yield name, _WAYS[name](generator.choice(contents), generator)


def fate(path: Path, content: bytes) -> str:
    """What comes of a file: refused, fine, or how it fails."""
    path.write_bytes(content)
    start = time.perf_counter()
    try:
        result = VLMAttributionResult.load(path)
    except ValueError as error:
        fate = "refused" if str(error).startswith(str(path)) else f"unnamed: {error}"
    except Exception:
        return f"load fails: {traceback.format_exc()}"
    else:
        fate = _used(result)
    seconds = time.perf_counter() - start
    return fate if seconds < MOST_SECONDS else f"slow: {seconds:.0f} seconds, {fate}"


def _used(result: VLMAttributionResult) -> str:
    try:
        assert repr(result) and result.words() is not None
        for token in range(len(result.output_tokens)):
            result.token_map_of(token)
        if result.images and result.layout.is_located:
            result.pixel_map()
            result.regions()
        page_of({result.method: result})
    except ValueError as error:
        # Damaged numbers are numbers.
        return "fine" if "finite" in str(error) else f"use fails: {error}"
    except Exception:
        return f"use fails: {traceback.format_exc()}"
    return "fine"


def _split(content: bytes) -> tuple[dict[str, Any], Any, bytes]:
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["content"]), content[8 + length :]


def _joined(header: dict[str, Any], said: Any, data: bytes) -> bytes:
    header["__metadata__"]["content"] = json.dumps(said)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Each container within a value, with each of its keys."""
    keys: Any = value if isinstance(value, dict) else range(len(value))
    found = [(value, key) for key in keys]
    for key in keys:
        if isinstance(value[key], (dict, list)) and value[key]:
            found += _places(value[key])
    return found


def _bytes(content: bytes, generator: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(generator.randint(1, 8)):
        changed[generator.randrange(len(changed))] = generator.randrange(256)
    return bytes(changed)


def _header_bytes(content: bytes, generator: random.Random) -> bytes:
    length = struct.unpack("<Q", content[:8])[0]
    changed = bytearray(content)
    for _ in range(generator.randint(1, 4)):
        changed[generator.randrange(8 + length)] = generator.randrange(256)
    return bytes(changed)


def _cut(content: bytes, generator: random.Random) -> bytes:
    return content[: generator.randrange(len(content))]


def _inserted(content: bytes, generator: random.Random) -> bytes:
    place = generator.randrange(len(content))
    return content[:place] + generator.randbytes(3) + content[place:]


def _digit(content: bytes, generator: random.Random) -> bytes:
    length = struct.unpack("<Q", content[:8])[0]
    header = bytearray(content[8 : 8 + length])
    digits = [place for place, one in enumerate(header) if chr(one).isdigit()]
    for _ in range(generator.randint(1, 3)):
        header[generator.choice(digits)] = ord(generator.choice("0123456789-eE."))
    return content[:8] + bytes(header) + content[8 + length :]


def _said(content: bytes, generator: random.Random) -> bytes:
    header, said, data = _split(content)
    inner, key = generator.choice(_places(said))
    if isinstance(inner, dict) and generator.random() < 0.2:
        inner.pop(key)
    else:
        inner[key] = generator.choice(ODD)
    return _joined(header, said, data)


def _numbers(content: bytes, generator: random.Random) -> bytes:
    header, said, data = _split(content)
    layout = said["layout"]
    for _ in range(generator.randint(1, 4)):
        inner, key = generator.choice(_places(layout))
        if type(inner[key]) in (int, float):
            inner[key] = generator.choice(NUMBERS)
    return _joined(header, said, data)


def _views(content: bytes, generator: random.Random) -> bytes:
    header, said, data = _split(content)
    views = said["layout"]["views"]
    views += [dict(generator.choice(views)) for _ in range(generator.randint(1, 40))]
    for view in views:
        if generator.random() < 0.3:
            view["grid"] = [generator.randint(1, 3), generator.randint(1, 3)]
        view["start"] = generator.randrange(9)
    return _joined(header, said, data)


def _tensors(content: bytes, generator: random.Random) -> bytes:
    header, said, data = _split(content)
    names = [name for name in header if name != "__metadata__"]
    one, other = generator.choice(names), generator.choice(names)
    what = generator.randrange(4)
    if what == 0:
        header.pop(one)
    elif what == 1:
        header[one], header[other] = header[other], header[one]
    elif what == 2:
        header[one]["shape"] = header[other]["shape"]
    else:
        header[one]["dtype"] = generator.choice(["F64", "F8_E5M2", "U8", "BOOL", "X"])
    return _joined(header, said, data)


_WAYS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "bytes": _bytes,
    "bytes of the header": _header_bytes,
    "cut": _cut,
    "bytes inserted": _inserted,
    "digits": _digit,
    "a part of the description": _said,
    "numbers of the layout": _numbers,
    "more views": _views,
    "tensors": _tensors,
}


def main() -> int:
    """Loads and uses so many files; 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("number", type=int, help="of files")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts: Counter[tuple[str, str]] = Counter()
    failures = []
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answer.dexar"
        files = mutants(path, options.seed)
        for _ in range(options.number):
            way, content = next(files)
            what = fate(path, content)
            counts[way, what.partition(":")[0]] += 1
            if what not in ("refused", "fine"):
                failures.append(f"{way}: {what}")
    print(f"{options.number} files in {time.perf_counter() - start:.0f} seconds")
    for (way, what), count in sorted(counts.items()):
        print(f"{count:6}  {way}: {what}")
    print("\n".join(failures[:10]))
    return min(1, len(failures))


if __name__ == "__main__":
    raise SystemExit(main())
