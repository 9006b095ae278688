"""Characters that cannot be seen and split a word for a tokenizer, and combining marks heaped on a letter.

What Unicode gives a meaning in its place stays: joiners in emoji and between letters of scripts that are written with
them, variation selectors after what has variants, the tags of flags, break marks of scripts without spaces.
"""

from __future__ import annotations

import unicodedata
from typing import Any

from cotune.encoders.normalizers.classes import MARKER, characters, members

# Default-ignorable characters that are not of the category Cf, unassigned ones among them; controls other than space.
_FURTHER = (
    r"\x{34f}\x{115f}\x{1160}\x{17b4}\x{17b5}\x{180b}-\x{180f}\x{2065}\x{3164}\x{fe00}-\x{fe0f}\x{ffa0}"
    r"\x{fff0}-\x{fff8}\x{13430}-\x{1343f}\x{e0000}-\x{e0fff}\x{0}-\x{8}\x{e}-\x{1f}\x{7f}-\x{84}\x{86}-\x{9f}"
)
# Arabic, Syriac and Kaithi signs that enclose digits: of the category Cf, but seen.
_SEEN = r"\x{600}-\x{605}\x{6dd}\x{70f}\x{890}\x{891}\x{8e2}\x{110bd}\x{110cd}"
_EMOJI = r"\p{Extended_Pictographic}"
_JOINING = r"\p{Arabic}\p{Syriac}\p{Mongolian}\p{Nko}\p{Mandaic}\p{Manichaean}\p{Phags_Pa}\p{Adlam}\p{Hanifi_Rohingya}"
_SPACELESS = r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\p{Javanese}\p{Balinese}\p{Tai_Tham}"
_VARIANTS = rf"{_EMOJI}\p{{Han}}\p{{Mongolian}}\p{{Myanmar}}\p{{Phags_Pa}}\p{{Manichaean}}\p{{Sm}}"
_MARKS = r"[\p{Mn}\p{Me}&&[\p{Inherited}\x{483}-\x{489}]]"
#: Marks that strike through or enclose what stands before them; not the square around a key of an emoji.
_OVERLAYS = (
    r"[\x{334}-\x{338}\x{488}\x{489}\x{20d2}\x{20d3}\x{20d8}-\x{20da}\x{20dd}-\x{20e0}\x{20e2}\x{20e4}-\x{20eb}]"
)


def invisible_steps() -> list[Any]:
    """Return what removes invisible characters and heaped marks, as normalizers of the tokenizers library."""
    from tokenizers import Regex, normalizers

    virama = members(letter for letter in characters() if unicodedata.combining(letter) == 9)
    kept = (
        rf"(?<=[{_EMOJI}\x{{fe0f}}\x{{1f3fb}}-\x{{1f3ff}}])\x{{200d}}(?={_EMOJI})",
        rf"(?<=[{_JOINING}])[\x{{200c}}\x{{200d}}](?=[{_JOINING}])",
        rf"(?<=[{virama}])[\x{{200c}}\x{{200d}}]|\x{{200d}}(?=[{virama}])",
        rf"(?<=[{_SPACELESS}])\x{{200b}}(?=[{_SPACELESS}])",
        rf"(?<=[{_VARIANTS}])[\x{{180b}}-\x{{180d}}\x{{180f}}\x{{fe00}}-\x{{fe0f}}\x{{e0100}}-\x{{e01ef}}]",
        r"(?<=[0-9#*])\x{fe0f}(?=\x{20e3})",
        r"(?<=\x{1f3f4}[\x{e0020}-\x{e007e}]{0,8})[\x{e0020}-\x{e007f}]",
        r"\x{115f}(?=[\x{1160}-\x{11a7}])|(?<=[\x{1100}-\x{115f}])\x{1160}",
        r"(?<=\p{Mongolian})\x{180e}(?=\p{Mongolian})",
    )
    gone = rf"[[\p{{Cf}}{_FURTHER}{members(MARKER)}]&&[^{_SEEN}]]"
    steps = (
        rf"(?:(?!{'|'.join(kept)}){gone})+",
        # Vietnamese puts two marks on a Latin letter, Greek three on its own; who heaps more hides the letter.
        rf"(?<=\p{{Latin}}){_MARKS}{{3,}}|{_MARKS}{{4,}}",
        rf"(?<=[\p{{L}}\p{{N}}]){_OVERLAYS}+",
    )
    return [normalizers.Replace(Regex(step), "") for step in steps]
