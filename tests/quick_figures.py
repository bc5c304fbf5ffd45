"""Figures of few pixels, drawn once per file, without subsets of fonts: drawing took a tenth of the
tests' time."""

from analysis.exhibits.figures import STYLE

#: The style of reports, which `test_exhibits.py` tests.
PUBLISHED = dict(STYLE)
STYLE |= {"savefig.dpi": 50, "savefig.bbox": None, "pdf.fonttype": 3}
