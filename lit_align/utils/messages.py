"""From a parser's many lines to the one that says what to mend."""

import re

_NOISE = (
    "Does not validate against",
    "Subtypes:",
    "Errors:",
    "Given value",
    "Expected a <class 'NoneType'>",
    "Expected a path but",
    "Problem with given class_path",
)
_KEY = re.compile(r'Parser key "(?P<key>.+?)":\s*(?P<rest>.*)')
_CLASS = re.compile(r"Expected a dot import path string: (?P<name>.*)")


def one_line(message: str) -> str:
    """The innermost complaints of a nested message, after the key they are about.

    Args:
        message: Of jsonargparse, which lists every alternative it tried, or of anything else.
    """
    keys: list[str] = []
    complaints: list[str] = []
    for line in (line.strip().removeprefix("- ") for line in message.splitlines()):
        if match := _KEY.fullmatch(line):
            keys.append(match["key"])
            line = match["rest"]
        if match := _CLASS.fullmatch(line):
            line = f"there is no class or function {match['name']!r}; give a known name or a dotted path"
        if line and not line.startswith(_NOISE) and line not in complaints:
            complaints.append(line)
    text = "; ".join(complaints) or " ".join(message.split())
    return f"{'.'.join(keys)}: {text}" if keys else text
