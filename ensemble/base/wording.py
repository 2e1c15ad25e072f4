"""Numbers as commands and the report write them."""


def plural(count: int, noun: str) -> str:
    """A count with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_number(value: float | None, form: str = ".3f", *, missing: str = "") -> str:
    """A number with a true minus sign; `missing` where there is none, or NaN."""
    if value is None or value != value:
        return missing
    return format(value, form).replace("-", "−")


def percent(share: float, decimals: int = 1) -> str:
    """A share as a percentage, with a space that does not break."""
    return f"{100 * share:.{decimals}f}\N{NO-BREAK SPACE}%"


def capitalize_first(text: str) -> str:
    """The text with a capital letter at its beginning."""
    return text[:1].upper() + text[1:]
