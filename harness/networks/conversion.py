"""Conversion of files that cannot be loaded safely: their code is run, and the weights are kept."""

import pickle
import warnings
from pathlib import Path

import torch

from harness.files import describe_format, whole_file
from harness.networks.checkpoint_files import weight_files
from harness.networks.misfits import ADVICE_ON_PIECES, is_composed
from harness.networks.state_dicts import CheckpointError, state_dicts
from harness.registry import search_working_folder
from harness.torchvision_import import call_with_torchvision


def convert(path: Path, out: Path) -> tuple[list[str], int]:
    """Load a file *unsafely* (code in it is run) and write its state dicts alone.

    Modules are also looked for in the working folder, as the file may need the user's own.

    Returns:
        The keys of the state dicts, and the number of tensors in them.

    Raises:
        CheckpointError: the file cannot be loaded, or holds no weights.
    """
    weight_files(path)  # raises an error if the file does not exist
    if path.is_file():
        with path.open("rb") as file:
            if description := describe_format(file.read(512)):
                raise CheckpointError(f"{path} is {description}")
    folder = search_working_folder()
    try:
        content = call_with_torchvision(_load_trusted, path)
    except Exception as error:  # code in the file is run and can raise anything
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise CheckpointError(
            f"{path} cannot be loaded ({reason}). The modules that it needs are looked for among "
            f"the installed packages, on PYTHONPATH and in {folder}; classes of the script that "
            f"saved it (__main__) cannot be imported: save model.state_dict() there"
        ) from error
    dicts = dict(state_dicts(content))
    if not dicts:
        raise CheckpointError(f"{path} holds neither a state dict nor a module")
    for name, tensor in (item for state in dicts.values() for item in state.items()):
        if is_composed(tensor):
            raise CheckpointError(
                f"{path} holds {name} as a {type(tensor).__name__}, not as plain numbers: save the "
                f"weights from before they were quantised; of those that are split between "
                f"processes, {ADVICE_ON_PIECES}"
            )
    with whole_file(out) as temporary:
        torch.save(dicts[""] if set(dicts) == {""} else dicts, temporary)
    return list(dicts), sum(len(state) for state in dicts.values())


def _load_trusted(path: Path) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about TorchScript archives
        try:
            return torch.load(path, map_location="cpu", weights_only=False)
        except (RuntimeError, pickle.UnpicklingError):
            with path.open("rb") as file:
                if file.read(1) != b"\x80":
                    raise
                file.seek(0)
                return pickle.load(file)  # a plain pickle
