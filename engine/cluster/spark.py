"""Running on a Spark cluster: tasks read their Parquet files, run our kernels and merge in a tree.

Spark gives the tasks out, repeats those that fail and moves the results; the rows never go through its JVM.
Needs ``pip install 'recunlearn[spark]'`` on the driver and on every worker, a JDK of 17 or more, and files
that every worker can read under the same path.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from ...models.merging import merged
from .map_reduce import Partition, Result
from .packing import pack, unpack

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

FAN_IN: Final = 8
"""Results that one task of the tree merges."""
PIECE_BYTES: Final = 16 << 20
"""A result travels in pieces of this size: an Arrow batch of Spark's must stay below 2 GiB."""
_PIECES_PER_BATCH: Final = "32"
_SCHEMA: Final = "result long, piece int, content binary"


class Spark:
    """Run on a cluster; see :class:`~recunlearn.engine.cluster.map_reduce.Run`.

    Results are sums or columns (``packing.py``); the driver gets one of them, the total, and
    ``spark.driver.maxResultSize`` must leave room for it.

    Parameters
    ----------
    session : of Spark; its Arrow batch size is set to fit.
    tasks : how many there are in the first round; None: one for each partition.
    """

    def __init__(self, session: "SparkSession", tasks: int | None = None) -> None:
        if tasks is not None and tasks < 1:
            raise ValueError(f"tasks is {tasks}; use one or more")
        self.session, self.tasks = session, tasks

    def __call__(
        self,
        partitions: Sequence[Partition],
        fn: Callable[[Partition], Result],
        merge: Callable[[Result, Result], Result],
    ) -> Result:
        """Run: one round over the partitions, then rounds of merging ``FAN_IN`` results into one.

        Raises
        ------
        pyspark.errors.PythonException
            A task raised, as often as Spark repeats it; the message has its traceback.
        """
        self.session.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", _PIECES_PER_BATCH)
        tasks = min(self.tasks or len(partitions), len(partitions))
        numbered = self.session.range(0, tasks, 1, tasks)
        shares = [list(partitions[k::tasks]) for k in range(tasks)]
        results = numbered.mapInArrow(_mapped(shares, fn, merge), _SCHEMA)
        while tasks > 1:
            tasks = -(-tasks // FAN_IN)
            results = results.repartition(tasks, "result").mapInArrow(_reduced(merge), _SCHEMA)
        total: Result = merged(_results(results.collect()), merge)
        return total


def _mapped(
    shares: list[list[Partition]],
    fn: Callable[[Partition], Result],
    merge: Callable[[Result, Result], Result],
) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """Make the task of the first round: the numbers of shares in, their merged results out."""

    def task(batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            for number in batch.column("id").to_pylist():
                yield from _batches(number, merged(map(fn, shares[number]), merge))

    return task


def _reduced(merge: Callable[[Result, Result], Result]) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """Make the task of a round of merging: all pieces of some results in, those of their merge out."""

    def task(batches: Iterator[Any]) -> Iterator[Any]:
        rows = [row for batch in batches for row in batch.to_pylist()]
        if rows:
            yield from _batches(min(row["result"] for row in rows), merged(_results(rows), merge))

    return task


def _results(rows: Iterable[Any]) -> Iterator[Any]:
    """Put pieces together and read the results, by number, one at a time."""
    pieces: dict[int, dict[int, bytes]] = {}
    for row in rows:
        pieces.setdefault(row["result"], {})[row["piece"]] = bytes(row["content"])
    for number in sorted(pieces):
        own = pieces.pop(number)
        yield unpack(b"".join(own[piece] for piece in sorted(own)))


def _batches(number: int, result: Any) -> Iterator[Any]:
    """Yield a result as Arrow batches of one piece each."""
    import pyarrow as pa

    content = pack(result)
    for piece, start in enumerate(range(0, len(content), PIECE_BYTES)):
        part = content[start : start + PIECE_BYTES]
        yield pa.RecordBatch.from_arrays(
            [pa.array([number], pa.int64()), pa.array([piece], pa.int32()), pa.array([part], pa.binary())],
            names=["result", "piece", "content"],
        )
