"""Values that a browser reports about itself and about a page, restricted to credible ranges."""

from typing import Any

BROWSERS = ("chrome", "firefox", "safari", "edge", "opera", "samsung", "other")
DAY = 86_400_000  # longest credible time on a page, in milliseconds


def read_device(report: object) -> dict[str, Any]:
    """Return what the browser reports about itself and its window, within bounds; {} if nothing.

    A size that it does not report, or reports as 0, is left out.
    """
    if not isinstance(report, dict):
        return {}
    sizes = {
        "width": round(clip_number(report, "width", 100_000)),
        "height": round(clip_number(report, "height", 100_000)),
        "pixel_ratio": round(float(clip_number(report, "pixel_ratio", 100)), 3),
    }
    return {name: size for name, size in sizes.items() if size} | {
        "touch": report.get("touch") is True,
        "browser": report["browser"] if report.get("browser") in BROWSERS else "other",
    }


def clip_number(report: dict[str, Any], name: str, maximum: float) -> float:
    """Return a number that a browser reports, clipped to 0 … `maximum`; 0 if it is no number."""
    value = report.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return 0
    return min(max(value, 0), maximum)
