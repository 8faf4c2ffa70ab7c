"""``recunlearn verify``: every file is what was written, every proof holds, no erased user is left."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import msgspec
import scipy.sparse as sp

from .config_notes import changed_settings
from .fence import FenceKey
from .interactions import read_store, to_user_items
from .ledger import Ledger, LedgerError
from .patterns import is_same, pattern_problems
from .purge import ScanResult, obsolete_files
from .rebuild import Rebuilt, rebuild_models
from .receipts import check_log
from .remains import Erased, scan_for_erased
from .state import StatePaths, read_config
from .version import (
    Manifest,
    ProofRecord,
    Store,
    damaged_files,
    read_current,
    read_ids,
    read_manifest,
    read_models,
    read_while_current,
)


@dataclass(frozen=True)
class Verification:
    """What a verification found.

    Attributes
    ----------
    models : registry name -> exact, bound, erased_at_least.
    scan : what a search of every file for erased users found.
    receipts, valid_receipts : how many there are; how many check out.
    problems : everything that is not as it must be, one line each; empty if all is well.
    deep : registry name -> how the model compares with a fit from scratch; empty unless asked for.
    """

    models: Mapping[str, Mapping[str, Any]]
    scan: ScanResult
    receipts: int
    valid_receipts: int
    problems: list[str]
    deep: Mapping[str, Rebuilt] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Tell whether all is well."""
        return not self.problems


def verify_state(
    state_dir: str | Path, *, deep: bool = False, on_model: Callable[[str], None] = lambda name: None
) -> Verification:
    """Check a state: digests, models against their records, receipts, and remains of erased users.

    Once a user is erased their id is known to nobody: each id, and each word of text, that is found in a
    file is hashed with the fence key and looked up among those that are erased.

    Parameters
    ----------
    deep : also fit every model from scratch to what is kept, and compare: as long as a fit takes.
    on_model : called with the name of each model that is about to be fitted.

    Raises
    ------
    StateError
        There is no state, or nothing is published.
    """
    paths = StatePaths(Path(state_dir))
    read_config(paths)
    while True:
        current = read_current(paths)
        found = read_while_current(paths, partial(_verify_version, paths, deep, on_model))
        if found.ok or read_current(paths) == current:  # else it was replaced under our eyes
            return found


def _verify_version(
    paths: StatePaths, deep: bool, on_model: Callable[[str], None], number: int, digest: str
) -> Verification:
    manifest = read_manifest(paths, number, digest)
    key = FenceKey.load(paths)
    directory = paths.version(number)
    problems = damaged_files(directory, manifest.files)
    problems += damaged_files(paths.interactions, manifest.interactions)
    problems += [f"{path} is obsolete: run recunlearn run --once" for path in obsolete_files(paths, manifest)]
    with _readable_ledger(paths, key) as ledger:
        if (integrity := ledger.integrity()) != "ok":
            problems.append(integrity)
        if changed := changed_settings(ledger, read_config(paths), key):
            problems.append(
                f"{paths.config} has changed since it was last read: {', '.join(changed)}; if that was you, "
                "recunlearn run --once takes it over; if not, restore it"
            )
        count, valid, receipt_problems = check_log(paths, ledger)
        newest = ledger.published_version()
        erased = Erased(key, ledger.fenced_users(erased_only=True), *ledger.fenced_pairs(erased_only=True))
        texts = ledger.texts()
    if number < newest:
        problems.append(f"CURRENT names version {number}, but an erasure was published in version {newest}")
    if not problems:
        problems += _check_models(paths, directory, manifest)
    rebuilt = rebuild_models(paths, manifest, on_model) if deep and not problems else {}
    problems += [
        f"model {name} is {found.distance:.3g} from a fit to what is kept, allowed are {found.allowed:.3g}"
        for name, found in rebuilt.items()
        if not found.ok
    ]
    published = {directory / name for name in manifest.files}
    published |= {paths.interactions / name for name in manifest.interactions}
    scan = scan_for_erased(paths, erased, texts, published)
    problems += receipt_problems
    problems += [f"{path} holds something of an erased user" for path in scan.found]
    models = {
        name: {key: getattr(model.proof, key) for key in ("exact", "bound", "erased_at_least")}
        for name, model in manifest.models.items()
    }
    return Verification(models, scan, count, valid, problems, rebuilt)


@contextmanager
def _readable_ledger(paths: StatePaths, key: FenceKey) -> Iterator[Ledger]:
    """Open the ledger; a page that cannot be read, wherever it is found, ends as one error with its name."""
    try:
        with Ledger(paths.ledger, key) as ledger:
            yield ledger
    except (apsw.Error, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LedgerError(
            f"{paths.ledger} is damaged ({type(error).__name__}); restore it from a backup"
        ) from error


def _check_models(paths: StatePaths, directory: Path, manifest: Manifest) -> list[str]:
    """Restore every model: it proves what the manifest says, and holds what the interaction store holds."""
    problems = []
    users, items = read_ids(directory, manifest)
    frame = read_store(paths, Store(manifest.interactions, manifest.partitions))
    if frame is not None and not (
        frame["user_id"].unique().sort().equals(users) and frame["item_id"].unique().sort().equals(items)
    ):
        problems.append("the published users and items are not those of the interaction store")
    kept = sp.csr_matrix((len(users), len(items))) if frame is None else to_user_items(frame)[0]
    for name, model in read_models(directory, manifest, mapped=True).items():
        if ProofRecord.of(model.proof()) != manifest.models[name].proof:
            problems.append(f"model {name} does not prove what version {manifest.version} says of it")
        if not is_same(model.user_items, kept):
            problems.append(f"model {name} does not hold what the interaction store holds")
        problems += pattern_problems(name, model.published(), kept)
    return problems
