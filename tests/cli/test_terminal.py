"""Words and titles that a terminal or a file system shows and never obeys."""

import re
import unicodedata

import pytest
from captum_dexar.cli.terminal import bar, cells, terminal_label, terminal_text, tinted
from captum_dexar.cli.word_table import token_table
from captum_dexar.visualization.file_names import file_name
from hypothesis import given, settings, strategies

ENCODINGS = ("utf-8", "ascii", "latin-1", "cp1252", "koi8-r")
HOSTILE = {
    "\x1b[31mred": "\\x1b[31mred",
    "\x9b31m": "\\x9b31m",
    "\x07": "\\x07",
    "a\x00b": "a\\x00b",
    "\u202egnp.exe": "\\u202egnp.exe",
    "\u200fa": "\\u200fa",
    "\u2066a": "\\u2066a",
    "\ud800": "\\ud800",
    "\u2028": "\\u2028",
    "a\nb\rc\td": "a↵b↵c→d",
    "  ": "␣␣",
    "": "",
    "红色": "红色",
    "👩\u200d👧": "👩\u200d👧",
}
any_text = strategies.text(
    strategies.characters(codec=None, categories=None), max_size=60
)


def is_inert(text: str) -> bool:
    """Nothing but printable characters, blanks and joiners."""
    return all(
        one.isprintable()
        or one in "\u200c\u200d"
        or unicodedata.category(one) in "Zs Co"
        for one in text
    )


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_known_texts(text: str) -> None:
    assert terminal_label(text) == HOSTILE[text]


def test_what_an_encoding_lacks() -> None:
    assert terminal_label("naïve 红", encoding="latin-1") == "naïve \\u7ea2"
    assert terminal_label("a\n b", encoding="ascii") == "a\\n b"
    assert terminal_label(" ", encoding="ascii") == "_"
    assert bar(0.5, 4, "ascii") == "##  " and bar(0.5, 4) == "██  "


@settings(max_examples=200, deadline=None)
@given(any_text, strategies.sampled_from(ENCODINGS), strategies.integers(1, 20))
def test_any_text_is_inert(text: str, encoding: str, longest: int) -> None:
    whole = terminal_label(text, encoding=encoding)
    cut = terminal_label(text, longest, encoding)
    lines = terminal_text(text, encoding)
    for shown in (whole, cut, lines.replace("\n", "").replace("\t", "")):
        assert is_inert(shown)
        shown.encode(encoding)
    assert cells(cut) <= max(longest, 3)
    if cells(whole) <= longest:
        assert cut == whole
    assert lines.count("\n") == text.count("\n")


@settings(max_examples=200, deadline=None)
@given(any_text)
def test_any_text_makes_a_safe_file_name(text: str) -> None:
    name = file_name(text)
    assert 1 <= len(name.encode()) <= 80
    assert name == file_name(name)
    assert not set(name) & set('/\\:*?"<>|\x00 ') and name.isprintable()
    assert name[0] not in ".-~" and name[-1] not in ". "
    assert ".." not in name
    stem = name.split(".")[0].lower()
    assert not re.fullmatch(r"con|prn|aux|nul|com\d|lpt\d", stem)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a red circle", "a_red_circle"),
        ("../../etc/passwd", "etc_passwd"),
        ("NUL", "_NUL"),
        ("com1.txt", "_com1.txt"),
        ("COM¹", "_COM¹"),
        (" .. ", "unnamed"),
        ("-rf", "rf"),
        ("naïve 圆", "naïve_圆"),
        ("cafe\u0301", "café"),
        ("x" * 10_000, "x" * 80),
        ("é" * 10_000, "é" * 40),
        ("\x1b[2J", "2J"),
    ],
)
def test_known_file_names(text: str, name: str) -> None:
    assert file_name(text) == name


ODD = ["$5_0", "红色", "a\nb", "\x00", "x" * 10_000, " ", "e\u0301", "\u202ea"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_table_has_one_line_per_word(encoding: str) -> None:
    weights = [float(place) for place in range(len(ODD))]
    table = token_table(ODD, weights, [-1.0] * len(ODD), encoding).splitlines()
    assert len(table) == 1 + len(ODD)
    assert len({cells(line) for line in table}) == 1
    block = "█" if encoding in ("utf-8", "koi8-r") else "#"
    assert [line.count(block) for line in table[1:]] == [0, 3, 6, 9, 11, 14, 17, 20]


def test_a_log_probability_of_nearly_zero_has_no_sign() -> None:
    table = token_table(["a", "b", "c"], [None] * 3, [-1e-6, 1e-6, -0.04])
    assert [line.split()[-1] for line in table.splitlines()[1:]] == [
        "0.000",
        "0.000",
        "-0.040",
    ]


def test_bars_and_words_take_their_colour_from_the_weight() -> None:
    plain = token_table(["a", "b"], [1.0, 4.0], [None, None])
    coloured = token_table(["a", "b"], [1.0, 4.0], [None, None], colour=True)
    assert "\x1b" not in plain
    codes = re.compile("\x1b\\[([0-9;]*)m")
    assert codes.sub("", coloured) == plain
    weak, strong = (codes.findall(line) for line in coloured.splitlines()[1:])
    assert weak != strong and weak[-1] == strong[-1] == "0"
    assert tinted("a", 0.0) == "a"
    assert codes.sub("", tinted("a", 1.0)) == "a" != tinted("a", 1.0)
