"""Data sets by name: fetched once, checked, kept in the user's cache directory; and local files of splits.

Nothing here is shipped with the package. A data set comes from the first of its sources that answers, is held
to a checksum, and its licence notice is shown on every load.
"""

from collections.abc import Callable

from .adjacency import read_adjacency
from .cache import CACHE_VARIABLE, cache_dir
from .description import Contents, DatasetError, Description, NamedDataset, Source, refused
from .load import load_described
from .registry import DATASETS
from .titles import clean_title


def load_dataset(name: str, *, show_notice: Callable[[str], None] | None = None) -> NamedDataset:
    """Load a data set by name, from the cache if it is there.

    Parameters
    ----------
    name : a key of ``DATASETS``, such as ``"movielens-100k"``.
    show_notice : is called once with the licence notice; None: the notice is logged as a warning.

    Raises
    ------
    DatasetError
        The name is unknown, or no source could be reached or passed its checksum.

    Notes
    -----
    The cache is the user's cache directory, or what ``RECUNLEARN_CACHE_DIR`` names. A cached copy is
    checked on every load and fetched again if it is damaged. A data set appears there whole or not at all, a
    download that was cut off goes on where it was; where the cache cannot be written, a warning is logged and
    the data are returned all the same. A set whose terms must be accepted in person is put there by hand.

    Examples
    --------
    >>> load_dataset("netflix")
    Traceback (most recent call last):
        ...
    recunlearn.eval.datasets.description.DatasetError: data set 'netflix' is not known; choose one of
    amazon-...
    """
    if name not in DATASETS:
        raise DatasetError(f"data set {name!r} is not known; choose one of {', '.join(sorted(DATASETS))}")
    return load_described(name, DATASETS[name], show_notice=show_notice)


__all__ = [
    "CACHE_VARIABLE",
    "DATASETS",
    "Contents",
    "DatasetError",
    "Description",
    "NamedDataset",
    "Source",
    "cache_dir",
    "clean_title",
    "load_dataset",
    "read_adjacency",
    "refused",
]
