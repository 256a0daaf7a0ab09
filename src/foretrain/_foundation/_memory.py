"""Memory, asked about before it is taken."""

from pathlib import Path

from foretrain._foundation._errors import MemoryBudgetError


def available_bytes() -> int | None:
    """What the operating system could still give this process, or None where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return None


def require_memory(needed: int, purpose: str, advice: str) -> None:
    """Raises `MemoryBudgetError` if `needed` bytes are more than is available, saying what to change."""
    available = available_bytes()
    if available is not None and needed > available:
        raise MemoryBudgetError(
            f"{purpose}: expected at most {available / 1e9:.3g} GB of memory (what is free), "
            f"came a need of {needed / 1e9:.3g} GB; {advice}"
        )
