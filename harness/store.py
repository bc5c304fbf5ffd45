"""A run in an object store (S3, Google Cloud Storage), so that machines need no shared folder.

The run's folder on each machine is a copy. An artifact is uploaded when it is complete, its sidecar
last. A downloaded file is used only if its hash equals that in the sidecar, so an incomplete upload
is never used as a result. pyarrow does the transfers and repeats those that fail; it takes the
credentials, the region and the endpoint from the environment.
"""

import getpass
import hashlib
import json
import logging
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pyarrow.fs as pafs

from harness.artifacts import Artifact, Run, fingerprint
from harness.files import ArtifactError, content_hash, whole_file, write_text

_log = logging.getLogger(__name__)

#: File that names the command that works on the store. A later command replaces it, and the earlier
#: one then uploads and removes nothing more. Unlike a lock, it need not be removed after a command
#: is killed.
_OWNER = ".owner"

#: Files that are uploaded in addition to the artifacts.
_REPORTS = ("manifest.json", "reversion/about.json", "bench/**/*", "report/**/*")


class StoredRun(Run):
    """A run whose artifacts are in an object store (url: of the run in it, such as
    "s3://bucket/mine"); its folder is a copy.

    Raises:
        ArtifactError: the store cannot be used; all methods raise it, too.
    """

    def __init__(self, root: str | Path, url: str) -> None:
        super().__init__(root)
        self.url = url
        self.command = ""
        with self._explain_errors():
            store, path = pafs.FileSystem.from_uri(url)
            self._store = pafs.SubTreeFileSystem(path, store)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the run for this command, and complete folder and store from each other."""
        with super().locked():
            self.command = uuid.uuid4().hex
            with self._explain_errors(), self._store.open_output_stream(_OWNER) as file:
                file.write(self.command.encode())
            text = self._text(_OWNER).decode()
            if text != self.command and self.command in text:
                raise ArtifactError(
                    f"the store {self.url} adds checksums to what it keeps, as old servers do: set "
                    f"AWS_REQUEST_CHECKSUM_CALCULATION=when_required"
                )
            stored = self._stored_names()
            _run_all(self._upload_artifact, filter(self._is_whole, self._local_names() - stored))
            _run_all(self._download, stored)
            yield
            self.publish()

    def pull(self) -> None:
        """Copy artifacts that other machines have made, and remove those that they have removed."""
        stored = self._stored_names()
        self._check_owner()  # before anything is removed
        _run_all(self._download, self._local_names() | stored)

    def publish(self) -> None:
        """Upload the manifest and the reports."""
        paths = {path for pattern in _REPORTS for path in self.root.glob(pattern)}
        _run_all(self._upload, [self._name(path) for path in paths if path.is_file()])

    @contextmanager
    def worker_copy(self, makes: Iterable[Artifact]) -> Iterator[Run]:
        """Yield a copy on a worker's machine; downloads stay in it, the made artifacts do not."""
        copy = _Copy(self)
        try:
            yield copy
        finally:
            for artifact in makes:
                Run.remove(copy, artifact)

    def seal(self, artifact: Artifact, fingerprint: str, seconds: float | None = None) -> None:
        super().seal(artifact, fingerprint, seconds)
        if self._is_whole(name := self._name(self.path(artifact))):
            self._upload_artifact(name)

    def remove(self, artifact: Artifact) -> None:
        name = self._name(self.path(artifact))
        self._check_owner()
        with self._explain_errors():
            for info in self._store.get_file_info([f"{name}.json", name]):
                if info.is_file:
                    self._store.delete_file(info.path)
        # last, because what a stop leaves in the store is found by what is left here
        super().remove(artifact)

    def damaged_in_store(self) -> Iterator[str]:
        """Yield the paths of artifacts in the store whose hash differs from that in the sidecar."""
        for name in sorted(self._stored_names()):
            with self._explain_errors(), self._store.open_input_stream(name) as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            if content != json.loads(self._text(f"{name}.json"))["sha256"]:
                yield name

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _local_names(self) -> set[str]:
        return {self._name(path) for path in self.files()}

    def _stored_names(self) -> set[str]:
        with self._explain_errors():
            files = self._store.get_file_info(pafs.FileSelector("", recursive=True))
        names = {file.path for file in files if file.is_file}
        return {name for name in names if f"{name}.json" in names}

    def _is_whole(self, name: str) -> bool:
        """Return whether the sidecar in the folder holds a hash: the artifact is complete."""
        return b'"sha256"' in _content(self.root / f"{name}.json")

    def _check_owner(self) -> None:
        if self._text(_OWNER) != self.command.encode():
            raise ArtifactError(
                f"another command has begun to work on {self.url}: this one stops, so that they do "
                f"not mix their results"
            )

    def _upload_artifact(self, name: str) -> None:
        self._upload(name)
        self._upload(f"{name}.json")

    def _upload(self, name: str) -> None:
        self._check_owner()
        with self._explain_errors():
            path = str(self.root / name)
            pafs.copy_files(path, name, destination_filesystem=self._store)

    def _download(self, name: str) -> None:
        """Copy an artifact from the store, or delete what the store lacks, unless in progress."""
        path, sidecar = self.root / name, self.root / f"{name}.json"
        text = self._text(f"{name}.json")
        if text == _content(sidecar) or not (text or self._is_whole(name)):
            return
        sidecar.unlink(missing_ok=True)
        if not text:
            path.unlink(missing_ok=True)
            return
        with whole_file(path) as temporary, self._explain_errors():
            pafs.copy_files(name, str(temporary), source_filesystem=self._store)
        if content_hash(path) == json.loads(text)["sha256"]:
            write_text(sidecar, text.decode())
        else:
            path.unlink()
            _log.warning("%s/%s is incomplete and will be made again", self.url, name)

    def _text(self, name: str) -> bytes:
        """Return the content of a small file in the store; empty if there is none."""
        with self._explain_errors():
            try:
                with self._store.open_input_stream(name) as file:
                    return bytes(file.read())
            except FileNotFoundError:
                return b""

    @contextmanager
    def _explain_errors(self) -> Iterator[None]:
        """Turn errors of the store into an ArtifactError that says what to do."""
        try:
            yield
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"the store {self.url} cannot be used ({error}): its bucket must exist, and the "
                f"environment must hold credentials that may write to it, its region and its "
                f"endpoint; finished work is kept: run the same command again"
            ) from error


class _Copy(StoredRun):
    """A copy of a run on a worker's machine: an artifact is downloaded when it is first needed."""

    def __init__(self, run: StoredRun) -> None:
        cache = Path(tempfile.gettempdir(), f"conceptevo-{getpass.getuser()}")
        super().__init__(cache / fingerprint(run.url), run.url)
        self.command = run.command
        self._requested: set[Artifact] = set()

    def path(self, artifact: Artifact) -> Path:
        path = super().path(artifact)
        if artifact not in self._requested:
            self._requested.add(artifact)
            self._download(self._name(path))
        return path


def open_run(root: str | Path, store: str | None) -> Run:
    """Return the run in a folder, which is a copy of that in the store, if one is given."""
    return Run(root) if store is None else StoredRun(root, store)


def _content(path: Path) -> bytes:
    """Return the content of a file; empty if there is none."""
    return path.read_bytes() if path.exists() else b""


def _run_all(function: Callable[[str], None], names: Iterable[str]) -> None:
    """Process many files at the same time, because a store responds slowly."""
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(function, names))
