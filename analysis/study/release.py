"""Release packs: anonymised data that rebuild their own tables byte by byte."""

import hashlib
import json
import logging
import platform
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from analysis.study.pipeline import (
    DATA,
    NEEDED,
    check_results,
    read_results,
    write_pictures,
    write_tables,
)
from analysis.study.responses import SOURCE_NOTES
from harness.files import whole_file
from harness.versions import versions
from tasks.responses import codebook

log = logging.getLogger(__name__)

#: Patterns of the files of a results folder that go into the pack: those that the analysis writes.
PARTS = (
    *NEEDED, *(f"data/{name}" for name in DATA), "data/run/*.json", "study/images/*",
    "tables/*.csv", "tables/*.md", "tables/*.tex",
)  # fmt: skip
#: The packages on which numbers depend.
PACKAGES = ("numpy", "scipy", "pandas", "statsmodels", "matplotlib", "conceptevo-harness")

README = """# {title}{note}

Data and tables of study {hash} ({participants} participants analysed, {answers} responses).

- `data/responses.csv`, `data/responses-participants.csv`: all responses and participants,
  anonymised; `codebook.md` explains the columns
- `data/demographics.csv`, where asked: counts of the answers to the questionnaire
- `study/`: the study as frozen before data collection, with the answer keys
- `data/network.csv`, `data/reversion.csv`, `data/run/`, where present: measures of the neurons
  shown, changes in accuracy when evolutions were reverted, and tables of the run
- `tables/`: as published (CSV, Markdown, LaTeX); `numbers.tex`: a macro for every number
- `analysis.json`: all settings of the analysis; `versions.json`: versions of the software
- `checksums.sha256`: check with `sha256sum -c checksums.sha256`

Rebuild all tables from this pack alone and compare them byte for byte, with ConceptEvo Harness
installed from its repository (`pip install '.[analysis]'` there; `--out FOLDER` writes the tables,
the figures and the report):

    conceptevo rebuild release.zip

Anonymisation: participants are numbered; times count from each participant's consent, set to
1970-01-01; questionnaires, platforms, completion codes and devices are left out. Free-text
labels are as written.
"""


def release(results: Path, out: Path) -> Path:
    """Pack a folder written by `conceptevo analyse`; the same folder gives the same bytes.

    Raises:
        ValueError: the folder is not a results folder.
    """
    check_results(results)
    paths = {path for part in PARTS for path in results.glob(part) if path.name[0] != "."}
    others = {path for part in ("data", "study", "tables") for path in _list_files(results / part)}
    for path in sorted(others - paths):
        log.warning("left out, because the analysis did not write it: %s", path)
    files = {path.relative_to(results).as_posix(): path.read_bytes() for path in sorted(paths)}
    settings = json.loads(files["analysis.json"])
    readme = README.format(note=SOURCE_NOTES[settings["source"]], **settings["about"])
    files["README.md"] = readme.encode()
    files["codebook.md"] = codebook().encode()
    software = {"python": platform.python_version(), **versions(PACKAGES)}
    files["versions.json"] = (json.dumps(software, indent=1) + "\n").encode()
    checksums = [f"{_digest(files[name])}  {name}\n" for name in sorted(files)]
    files["checksums.sha256"] = "".join(checksums).encode()
    with whole_file(out) as temporary, zipfile.ZipFile(temporary, "w") as pack:
        for name in sorted(files):
            # a fixed date, so that packs of the same results have the same bytes
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            pack.writestr(entry, files[name])
    return out


def _list_files(path: Path) -> Iterable[Path]:
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.is_file())
    return [path] if path.is_file() else []


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def rebuild(pack: Path, out: Path | None = None) -> list[str]:
    """Analyse the data of a pack and compare every table with the one in the pack.

    Args:
        out: folder for the rebuilt tables, the figures and the report.

    Returns:
        names of the tables that differ; empty if all have the same bytes.

    Raises:
        ValueError: the file is damaged, or is not a pack.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "pack"
        try:
            with zipfile.ZipFile(pack) as archive:
                archive.extractall(folder)
        except (zipfile.BadZipFile, OSError) as error:
            raise ValueError(f"{pack} is not a readable release pack ({error})") from error
        for required in ("checksums.sha256", *NEEDED):
            if not (folder / required).is_file():
                raise ValueError(f"{pack} is not a release pack: it holds no {required}")
        for line in (folder / "checksums.sha256").read_text().splitlines():
            digest, _, file = line.partition("  ")
            if not (folder / file).is_file() or _digest((folder / file).read_bytes()) != digest:
                raise ValueError(f"{pack} is damaged: {file} does not fit its checksum")
        rebuilt = Path(name) / "again" if out is None else out
        results = read_results(folder)
        tables = write_tables(results, rebuilt)
        if out is not None:
            write_pictures(results, tables, out)
        parts = ("tables", "numbers.tex")
        before, after = (
            {path.name: path.read_bytes() for part in parts for path in _list_files(root / part)}
            for root in (folder, rebuilt)
        )
        names = sorted(before.keys() | after.keys())
        return [name for name in names if before.get(name) != after.get(name)]
