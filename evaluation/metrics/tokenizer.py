"""Penn Treebank tokens as the COCO caption evaluation makes them, without Java: lower case, clitics split, punctuation left out.

At each place the longest of the patterns below counts, the first of them when several are equally long. What they should
find was learnt by asking the reference tokenizer; tests compare the two.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

REMOVED = frozenset(["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
"""Tokens that the COCO evaluation leaves out. Brackets are lowered before they are compared, so that they stay, as they do there."""

_Q = "['\u2019]"
# Letters, with accents that stand behind them and soft hyphens, but without Roman numerals.
_L = r"(?:(?![\u2160-\u2188])[^\W\d_]|[\u00ad\u0300-\u036f])"
_W = r"(?:(?![\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u2089\u2150-\u215e\u2160-\u2188])[^\W_]|[\u00ad\u0300-\u036f])"
_HYPHENED = rf"{_W}+(?:[-\u2011]{_W}+)*"
_NUMBER = r"[+-]?(?:\d+(?:[.,:/\u2044]\d+)*|(?:[.,]\d+)+)"
_ABBREVIATIONS = """a.d a.k.a adj adm adv al ala alex apr ariz asst assn assoc atty aug ave b.a b.c bhd bldg blvd bros calif capt cf cie
 cmdr co col colo conn corp cos cpl ct d.c dak dec dept dr elec esq est etc ext feb fla fri ft ga gen gov hon ind inc intl jan jos jr
 jul jun kan kans ky lt ltd m.d maj mar md messrs mfg mich minn mlle mme mo mon mont mr mrs ms mt natl neb nev nov oct okla penn ph ph.d
 plc pres prof pte pty pvt rd rep reps rev rt sen sens sep sept sgt sq sr st supt tel tenn thu thurs treas tue tues univ va vs vt wed
 wis wisc wm wyo"""
_STARTERS = """A About According After An As At But Earlier He Her Here However If In It Last Many More Mr. Ms. Now Once One Other Our She
 Since So Some Such That The Their Then There These They This We What When While Yet You"""
"""Words that begin a sentence: a point between a single letter and one of them is a full stop."""
_BEFORE_NUMBERS = "no nos pp art fig figs prop op"


def _either(words: str) -> str:
    return "|".join(re.escape(word) for word in sorted(words.split(), key=len, reverse=True))


_PATTERNS = [
    # Tags, addresses, entities.
    re.compile(r"<[!?]?/?[A-Za-z][\w:.-]*(?:\s+[\w:.-]+(?:\s*=\s*(?:\"[^\"<>]*\"|'[^'<>]*'|[^\s<>\"']+))?)*\s*/?>"),
    re.compile(r"https?://[^\s<>\"|(){}]*[^\s<>\"|(){}.,;:!?'-]", re.I),
    re.compile(r"www\.[^\s<>\"|(){}]*[^\s<>\"|(){}.,;:!?'-]", re.I),
    re.compile(r"[A-Za-z0-9][\w.%+-]*@\w[\w-]*(?:\.\w[\w-]*)*"),
    re.compile(r"@[A-Za-z_]\w*|\#[A-Za-z]+"),
    re.compile(r"&(?:amp|quot|lt|gt|apos|nbsp);|&\#\d+;", re.I),
    # Numbers: of telephones, mixed ("1 1/2"), signed, grouped, fractions, times; "'90s".
    re.compile(r"(?:\(\d{2,3}\)[ \u00a0]?|\+{0,2}(?:\d{2,4}[- \u00a0])?\d{2,4}[- \u00a0])\d{3,4}[- \u00a0]?\d{3,5}"),
    re.compile(r"\d{1,4}[- \u00a0]\d{1,4}[/\u2044]\d{1,4}"),
    re.compile(rf"{_NUMBER}(?:-{_W}+)*"),
    re.compile(rf"{_Q}\d\ds?(?![\w\"'])"),
    # Clitics, and words that contain an apostrophe.
    re.compile(rf"{_Q}(?:s|m|d|re|ve|ll)(?!{_L})|\u2019(?:s|m|d|re|ve|ll)|n{_Q}t(?!{_L})", re.I),
    re.compile(rf"{_Q}n{_Q}|{_Q}(?:em|til|cause|n)(?!{_L})|'t(?=(?:is|was))", re.I),
    re.compile(rf"(?:[odl]{_Q}{_L}{_L}+|o{_Q}{_L}+|d{_Q}(?:ye|oh)|qu{_Q}{_L}+|c'mon|ma{_Q}am|n?e{_Q}er|ol{_Q}(?!{_L})|[jy]{_Q}(?={_L}))"
               rf"(?:-{_W}+)*", re.I),
    re.compile(rf"{_L}+[aeiouy]{_Q}[aeiou]{_L}*", re.I),
    # Abbreviations keep their point.
    re.compile(rf"(?:{_either(_ABBREVIATIONS)})\.", re.I),
    re.compile(rf"(?:{_either(_BEFORE_NUMBERS)})\.(?=\s?\d)", re.I),
    re.compile(rf"{_L}\.(?!\s+(?:(?:{_either(_STARTERS)})(?:\s|$)|<[!?/]?[A-Za-z]))"),
    re.compile(rf"(?:{_L}\.)+{_L}(?:\.|(?!{_W}))"),
    re.compile(rf"(?:{_L}\.)+-{_W}+(?:-{_W}+)*"),
    # Words, with points, strokes or marks between them, or with hyphens.
    re.compile(rf"{_L}{_W}*(?:\.{_L}{_W}*)+(?:-{_W}+)*"),
    re.compile(rf"{_HYPHENED}(?:/{_HYPHENED})+"),
    re.compile(rf"{_L}{_W}*(?:[!?]{_L}{_W}*)+"),
    re.compile(r"[A-Z]+(?:&[A-Z]+)+"),
    re.compile(r"[Cc]\+\+|[CcFf]\#"),
    re.compile(_HYPHENED),
    re.compile(rf"{_L}{_W}*(?:[-_]{_W}+)*"),
    # Faces, currencies, rows of signs.
    re.compile(r"[<>]?[:;=][-o*']?[()DPdpO@|\\{\[](?!\w)|\^_\^|[oO]_[oO]|-_-"),
    re.compile(r"(?:US|HK|AU?|NZ|CA?|R)\$"),
    re.compile(r"[!?]{2,}|_{2,}|\*{2,}|\#{2,}|@{2,}|\+{2,}|<<|>>|-{2,}|\.{3,}"),
    re.compile(r"(?s:.)"),
]
_NOT = re.compile(rf"(?:{_W}+-)*{_L}+?(?=n{_Q}t(?!{_L}))", re.I)
_JOINED = re.compile(rf"can(?=not(?!{_W}))|(?:gon|wan)(?=na(?!{_W}))|got(?=ta(?!{_W}))|(?:lem|gim)(?=me(?!{_W}))", re.I)
_CURLY_CLITIC = re.compile("\u2019(?:s|m|d|re|ve|ll)|n\u2019t")
_PLAIN = re.compile(r"[a-z]+(?: [a-z]+)*[ .]*")
_SPLIT_WORDS = frozenset(["cannot", "gonna", "wanna", "gotta", "lemme", "gimme"])

_REPLACED = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", "\u20ac": "$", "\u00a3": "#", "\u00a2": "cents",
    "\u2013": "--", "\u2014": "--", "\u2026": "...", "\u2018": "'", "\u2019": "'", "\u201c": "``", "\u201d": "''", '"': "''",
    "\u00ab": "``", "\u00bb": "''", "\u2039": "`", "\u203a": "'", "&amp;": "&", "&quot;": "''", "&lt;": "<", "&gt;": ">", "&apos;": "'",
    "&nbsp;": "", "\u00bd": "1/2", "\u00bc": "1/4", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3", "\u2010": "", "\u20b9": "",
}
_UNKNOWN = ("Cf", "Cc", "Co", "Cn", "Mn", "Nl")
"""Categories of characters that the reference leaves out when they are no part of a word: among them what colours an emoji."""
_BRACKETS = str.maketrans({character: word for character, word in _REPLACED.items() if character in "()[]{}"})


@lru_cache(maxsize=1 << 16)
def tokenize(sentence: str) -> str:
    """The tokens of a sentence, separated by blanks; "" when nothing but punctuation is in it."""
    lowered = sentence.lower()
    if _PLAIN.fullmatch(lowered):
        words = lowered.rstrip(" .").split(" ")
        # "b." keeps its point, and so do abbreviations: only unpointed or long last words are plain.
        if _SPLIT_WORDS.isdisjoint(words) and "" not in words and ("." not in lowered or len(words[-1]) > 7):
            return " ".join(words)
    return " ".join(token for token in _tokens(sentence.replace("\n", " ")) if token not in REMOVED)


def _tokens(sentence: str) -> list[str]:
    tokens, start = [], 0
    while start < len(sentence):
        if sentence[start].isspace():
            start += 1
            continue
        end = _longest(sentence, start)
        token = _written(sentence[start:end])
        tokens.extend([token] if token else [])
        start = end
    return tokens


def _longest(sentence: str, start: int) -> int:
    """Where the token that begins at ``start`` ends."""
    joined = _JOINED.match(sentence, start)
    if joined:
        return joined.end()
    best = max(match.end() for pattern in _PATTERNS if (match := pattern.match(sentence, start)))
    # What stands before "n't" is a separate word if nothing longer spans both.
    negated = _NOT.match(sentence, start)
    return negated.end() if negated and negated.end() + 3 > best else best


def _written(token: str) -> str:
    """A token as it is printed; "" for characters that the reference does not know and drops."""
    lowered = token.lower()
    if lowered in _REPLACED:
        return _REPLACED[lowered]
    if len(token) == 1 and not token.isascii() and not "\u0300" <= token <= "\u036f" and (
            ord(token) > 0xFFFF or unicodedata.category(token) in _UNKNOWN):
        return ""
    if re.fullmatch(r"-{2,}", token):
        return "--"
    if re.fullmatch(r"\.{3,}", token):
        return "..."
    if _CURLY_CLITIC.fullmatch(lowered):
        return lowered.replace("\u2019", "'")
    return lowered.translate(_BRACKETS).replace(" ", "\u00a0").replace("\u00ad", "")
