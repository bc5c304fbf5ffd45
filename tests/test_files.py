"""Files are written so that others read them."""

import numpy as np
import pandas as pd

from harness.files import csv_text


def test_truth_is_written_as_r_reads_it():
    table = pd.DataFrame(
        {"plain": [True, False], "gap": [True, None], "mixed": [np.False_, 1],
         "text": ["True", "False"], "number": [1.0, 0.123456789]}
    )  # fmt: skip
    table["nullable"] = pd.array([None, False], dtype="boolean")
    assert csv_text(table, float_format="%.3g") == (
        "plain,gap,mixed,text,number,nullable\n"
        "TRUE,TRUE,FALSE,True,1,\n"
        "FALSE,,1,False,0.123,FALSE\n"
    )
