"""An equation as the data names it, in plain text, set for reading: subscripts lowered, Greek names in Greek."""

import re
from html import escape

_GREEK = "alpha|beta|gamma|delta|epsilon|kappa|lambda|mu|nu|pi|rho|sigma|omega"


def equation_html(text: str) -> str:
    """`u_t = nu u_xx` as HTML, every character that HTML would read as its own escaped."""
    safe = re.sub(r"(?<!\w)-", "&minus;", escape(str(text)))
    safe = re.sub(r"\b([A-Za-z])_(\w+)", r"\1<sub>\2</sub>", safe)
    return re.sub(rf"\b({_GREEK})\b(?!;)", r"&\1;", safe)
