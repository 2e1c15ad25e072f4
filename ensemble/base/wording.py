"""Numbers and words as commands and the report write them."""


def plural(count: int, noun: str) -> str:
    """Write a count with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_number(value: float | None, form: str = ".3f", *, missing: str = "") -> str:
    """Write a number with a true minus sign; `missing` if it is None or NaN."""
    if value is None or value != value:
        return missing
    return format(value, form).replace("-", "−")


def percent(share: float, decimals: int = 1) -> str:
    """Write a share as a percentage, with a no-break space."""
    return f"{100 * share:.{decimals}f}\N{NO-BREAK SPACE}%"


def clock(seconds: float) -> str:
    """Write a time as hours, minutes and seconds: `0:01:20`."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def capitalize_first(text: str) -> str:
    """Write the first letter of a text as a capital."""
    return text[:1].upper() + text[1:]
