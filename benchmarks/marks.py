"""Pages whose tables are written by scripts."""

import re


def between(text: str, name: str, made: str) -> str:
    """The page with what stands between ``<!-- table NAME -->`` and ``<!-- end -->`` replaced."""
    return re.sub(
        f"(<!-- table {name} -->\n).*?(<!-- end -->)", lambda m: f"{m[1]}{made}\n{m[2]}", text, flags=re.DOTALL
    )
