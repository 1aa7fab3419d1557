"""From text to words. Offsets are code points: ``text[word.start:word.end] == word.text``, always."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import get_args

from spanwright.config import Splitter
from spanwright.entities import Word
from spanwright.errors import ConfigError, nearest

Split = Callable[[str], tuple[Word, ...]]

# the published rule: a run of word characters (the underscore is one) with single hyphens inside, or any one other
# visible character
_PUBLISHED = re.compile(r"\w+(?:-\w+)*|\S")

# scripts that are written without spaces between words
_UNSPACED = (
    "\u0e00-\u0e7f"  # Thai
    "\u0e80-\u0eff"  # Lao
    "\u0f00-\u0fff"  # Tibetan
    "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f\U000116d0-\U000116ff"  # Myanmar
    "\u1780-\u17ff\u19e0-\u19ff"  # Khmer
    "\u3005-\u3007\u3021-\u3029\u3038-\u303c\u3040-\u30ff\u3190-\u319f\u31f0-\u31ff\uff66-\uff9f"  # kana and their marks
    "\U0001aff0-\U0001afff\U0001b000-\U0001b16f"  # historic kana
    "\u2e80-\u2fdf\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese characters
)
_LETTER = rf"[^\W{_UNSPACED}]"
_DIGIT = rf"[^\D{_UNSPACED}]"
_MARK = "\u0300"  # stands for all marks that continue no word
_SCRIPT_AWARE = re.compile(
    rf"{_LETTER}(?:{_LETTER}|[.+-]){{0,63}}@{_LETTER}+(?:[.-]{_LETTER}+)+"  # e-mail; 64 is the standard's limit
    rf"|(?<!{_LETTER})(?<!\.)[-+]?{_DIGIT}+(?:[.,]{_DIGIT}+)+(?!{_LETTER})"  # 1.1  1,000.5  -3.2
    rf"|(?<!{_LETTER})[-+]{_DIGIT}+(?!{_LETTER})"  # -3
    rf"|{_LETTER}+(?:-{_LETTER}+)*"
    rf"|\S{_MARK}*"
)
_IS_LETTER = re.compile(_LETTER)

# joiners, and the characters that Unicode counts to the cluster before them though they are letters:
# Thai and Lao AM, the voicing marks of halfwidth katakana
_ALSO_MARKS = "\u200c\u200d\u0e33\u0eb3\uff9e\uff9f"


def splitter(name: Splitter | str) -> Split:
    """The function that splits text in the way of that name.

    "whitespace" is the rule of published models; "script" besides gives each character of scripts without spaces
    (Chinese, Japanese, Thai, ...) a word of its own, keeps marks with what they stand on, and e-mail addresses and
    numbers such as 1.1 or -3 whole. Both take time linear in the text.

    Raises:
        ConfigError: there is no such splitter.

    """
    if name == "whitespace":
        return _split_published
    if name == "script":
        return _split_by_script
    known = get_args(Splitter)
    raise ConfigError(
        f"`word_splitter` must be one of {', '.join(known)}, but is {name!r}. {nearest(str(name), known)}"
    )


def _split_published(text: str) -> tuple[Word, ...]:
    return tuple(Word(match[0], match.start(), match.end()) for match in _PUBLISHED.finditer(text))


def _split_by_script(text: str) -> tuple[Word, ...]:
    places = [match.span() for match in _SCRIPT_AWARE.finditer(_with_plain_marks(text))]
    return tuple(Word(text[start:end], start, end) for start, end in places)


def _with_plain_marks(text: str) -> str:
    """`text`, as long as it was, each mark replaced by what the rule knows: "_" on a letter, else `_MARK`.

    Python counts marks (vowel signs of Indic scripts among them) as no part of a word, and `re` has no class of them.
    """
    if text.isascii():
        return text
    plain: list[str] = []
    for char in text:
        if _is_mark(char):
            plain.append("_" if plain and _IS_LETTER.match(plain[-1]) else _MARK)
        else:
            plain.append(char)
    return "".join(plain)


def _is_mark(char: str) -> bool:
    return unicodedata.category(char) in ("Mn", "Mc", "Me") or char in _ALSO_MARKS
