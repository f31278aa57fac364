"""Which words of a caption name a category of COCO, and which refer to nothing."""

import re
from collections.abc import Iterator, Mapping, Sequence

# Words for the categories besides their own names, in the singular. A word may name
# several categories. A word counts only where the image has an object of its category,
# which settles most double meanings (an orange cat, a bat in a cave).
SYNONYMS: dict[str, tuple[str, ...]] = {
    "person": (
        *("man", "woman", "boy", "girl", "child", "kid", "baby", "toddler", "people"),
        *("guy", "lady", "gentleman", "adult", "couple", "crowd", "player", "batter"),
        *("pitcher", "catcher", "umpire", "skier", "snowboarder", "skateboarder"),
        *("surfer", "rider", "cyclist", "pedestrian", "tourist", "chef", "student"),
        *("spectator", "worker", "officer", "male", "female"),
    ),
    "bicycle": ("bike",),
    "car": ("automobile", "suv", "sedan", "taxi", "cab", "van"),
    "motorcycle": ("motorbike", "bike", "scooter", "moped"),
    "airplane": ("plane", "aeroplane", "aircraft", "jet", "airliner", "jetliner"),
    "train": ("locomotive",),
    "truck": ("lorry", "pickup"),
    "boat": ("ship", "sailboat", "canoe", "kayak", "ferry", "yacht"),
    "traffic light": ("stoplight", "traffic signal", "stop light"),
    "fire hydrant": ("hydrant",),
    "parking meter": ("meter",),
    "bird": (
        *("seagull", "gull", "pigeon", "duck", "goose", "owl", "parrot", "swan"),
        *("eagle", "hawk", "penguin", "chicken", "flamingo"),
    ),
    "cat": ("kitten", "kitty"),
    "dog": ("puppy", "pup"),
    "horse": ("pony", "foal"),
    "sheep": ("lamb", "ram", "ewe"),
    "cow": ("cattle", "bull", "calf", "ox"),
    "bear": ("polar bear", "cub"),
    "backpack": ("bag", "rucksack"),
    "handbag": ("bag", "purse"),
    "tie": ("necktie", "bow tie"),
    "suitcase": ("luggage", "bag", "baggage"),
    "skis": ("ski",),
    "snowboard": ("board",),
    "sports ball": ("ball", "baseball", "football", "basketball"),
    "baseball bat": ("bat",),
    "baseball glove": ("glove", "mitt"),
    "skateboard": ("board",),
    "surfboard": ("board",),
    "tennis racket": ("racket", "racquet", "tennis racquet"),
    "wine glass": ("glass",),
    "cup": ("mug", "glass"),
    "sandwich": ("hamburger", "burger"),
    "hot dog": ("hotdog",),
    "donut": ("doughnut",),
    "chair": ("stool", "armchair"),
    "couch": ("sofa", "loveseat"),
    "potted plant": ("plant", "houseplant"),
    "dining table": ("table", "desk"),
    "tv": ("television", "television set", "monitor"),
    "laptop": ("computer", "laptop computer"),
    "mouse": ("computer mouse",),
    "remote": ("remote control", "controller"),
    "cell phone": ("phone", "cellphone", "smartphone", "mobile phone"),
    "microwave": ("microwave oven",),
    "oven": ("stove",),
    "refrigerator": ("fridge",),
    "teddy bear": ("teddy", "stuffed bear"),
    "hair drier": ("hair dryer", "hairdryer", "blow dryer"),
}

_IRREGULAR = {
    "men": "man",
    "women": "woman",
    "gentlemen": "gentleman",
    "children": "child",
    "mice": "mouse",
    "geese": "goose",
    "oxen": "ox",
    "calves": "calf",
    "knives": "knife",
}
_EDGES = re.compile(r"^\W+|(?:'s|’s)?\W*$")


def plain(word: str) -> str:
    """A word in lower case, without punctuation around it and without 's."""
    return _EDGES.sub("", word.lower())


def categories_by_name(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The categories that a word, or several in a row, can name, in the singular.

    Args:
        names (sequence of str): the names of the categories
    """
    by_name: dict[str, tuple[str, ...]] = {name: (name,) for name in names}
    for category in names:
        for word in SYNONYMS.get(category, ()):
            by_name[word] = (*by_name.get(word, ()), category)
    return by_name


def named_categories(
    words: Sequence[str], by_name: Mapping[str, tuple[str, ...]]
) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    """The names in a caption as ``(start, stop, categories)``; longer ones come first.

    Args:
        words (sequence of str): the caption's words, of :func:`plain`
        by_name (Mapping): the result of :func:`categories_by_name`
    """
    longest = max(len(name.split()) for name in by_name)
    start = 0
    while start < len(words):
        for stop in range(min(start + longest, len(words)), start, -1):
            *first, last = words[start:stop]
            names = [" ".join([*first, one]) for one in _singulars(last)]
            match = next((by_name[name] for name in names if name in by_name), None)
            if match is not None:
                yield start, stop, match
                start = stop - 1
                break
        start += 1


def _singulars(word: str) -> Iterator[str]:
    """A word, and what it may be the plural of."""
    yield word
    if word in _IRREGULAR:
        yield _IRREGULAR[word]
    if word.endswith("ies"):
        yield f"{word[:-3]}y"
    if word.endswith("es"):
        yield word[:-2]
    if word.endswith("s"):
        yield word[:-1]
