"""Numbers as one word each, in English and German."""

LIMIT = 100  # the first number without a word

_ENGLISH_WORDS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen twenty thirty forty fifty sixty seventy eighty ninety
"""
_GERMAN_WORDS = """
null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn siebzehn
achtzehn neunzehn zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig
"""
# 0 to 19, then the tens from 20.
_ENGLISH = _ENGLISH_WORDS.split()
_GERMAN = _GERMAN_WORDS.split()


def english(number: int) -> str:
    """A number from 0 to 99 as one English word.

    >>> english(7), english(40), english(42)
    ('seven', 'forty', 'forty-two')
    """
    if number < 20:
        return _ENGLISH[number]
    tens, unit = divmod(number, 10)
    return _ENGLISH[18 + tens] + (f"-{_ENGLISH[unit]}" if unit else "")


def german(number: int) -> str:
    """A number from 0 to 99 as one German word.

    >>> german(7), german(40), german(42)
    ('sieben', 'vierzig', 'zweiundvierzig')
    """
    if number < 20:
        return _GERMAN[number]
    tens, unit = divmod(number, 10)
    first = "ein" if unit == 1 else _GERMAN[unit]
    return (f"{first}und" if unit else "") + _GERMAN[18 + tens]


def number_forms(count: int) -> dict[str, tuple[str, ...]]:
    """How the numbers below `count` are written, by style: digits, and words where every one of them has a word.

    >>> number_forms(3)
    {'digits': ('0', '1', '2'), 'words': ('zero', 'one', 'two'), 'german': ('null', 'eins', 'zwei')}
    >>> list(number_forms(101))
    ['digits']
    """
    forms = {"digits": tuple(map(str, range(count)))}
    if count <= LIMIT:
        forms["words"] = tuple(map(english, range(count)))
        forms["german"] = tuple(map(german, range(count)))
    return forms
