"""Words around numbers in sentences for people."""


def counted(count: int, noun: str) -> str:
    """`1 patient`, `2 patients`: for nouns that take an s."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
