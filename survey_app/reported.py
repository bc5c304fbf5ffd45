"""Values that a browser reports about itself and about a page, restricted to credible ranges."""

from __future__ import annotations

from typing import Any

BROWSERS = ("chrome", "firefox", "safari", "edge", "opera", "samsung", "other")
DAY = 86_400_000  # longest credible time on a page, in milliseconds


def device_of(sent: object) -> dict[str, Any]:
    """Return what the browser reports about itself and its window, within bounds; {} if nothing."""
    if not isinstance(sent, dict):
        return {}
    return {
        "width": round(count(sent, "width", 100_000)),
        "height": round(count(sent, "height", 100_000)),
        "pixel_ratio": round(float(count(sent, "pixel_ratio", 100)), 3),
        "touch": sent.get("touch") is True,
        "browser": sent["browser"] if sent.get("browser") in BROWSERS else "other",
    }


def count(action: dict[str, Any], name: str, most: float) -> float:
    """Return a number that the browser reports, clipped to 0 … `most`; 0 if it is not a number."""
    value = action.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return 0
    return min(max(value, 0), most)
