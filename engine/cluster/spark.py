"""Running on a Spark cluster: tasks read their Parquet files, run our kernels and merge in a tree.

Spark gives the tasks out, repeats those that fail and moves the results; the rows never go through its JVM.
Needs ``pip install 'recunlearn[spark]'`` on the driver and on every worker, a JDK of 17 or more, and files
that every worker can read under the same path.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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


class SparkError(ValueError):
    """Spark is not there, could not be started, or a task failed; the message says which."""


@contextmanager
def spark_on(master: str, properties: Mapping[str, str] | None = None) -> "Iterator[Spark]":
    """Start Spark's driver in this process, and stop it with the block; use one that runs, and leave it.

    Parameters
    ----------
    master : as Spark takes it: ``local[2]``, ``spark://HOST:PORT``.
    properties : of Spark's configuration, beside ``spark-defaults.conf``.

    Raises
    ------
    SparkError
        PySpark or Java is missing, the master does not answer, or a task failed.
    """
    try:
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise SparkError(
            f"--run spark needs {error.name}, which is not installed; pip install 'recunlearn[spark]'"
        ) from None
    running = SparkSession.getActiveSession()
    try:
        session = running or _session(master, properties or {})
        yield Spark(session, tasks=max(1, session.sparkContext.defaultParallelism))
    except PySparkException as error:
        raise SparkError(_what_failed(error)) from error
    finally:
        if running is None and (own := SparkSession.getActiveSession()) is not None:
            own.stop()


def _session(master: str, properties: Mapping[str, str]) -> "SparkSession":
    """Start a session; on this machine alone, it listens to this machine alone."""
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    options = {"spark.ui.showConsoleProgress": "false", "spark.driver.maxResultSize": "0"}
    if master.startswith("local"):
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        options["spark.ui.enabled"] = "false"
    builder = SparkSession.builder.master(master).appName("recunlearn fit")
    session: SparkSession = builder.config(map={**options, **properties}).getOrCreate()
    session.sparkContext.setLogLevel("OFF")  # what fails is raised
    return session


def _what_failed(error: Exception) -> str:
    """Take the last line of a task's traceback; where Java could not be started, say what is needed."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if "JAVA_GATEWAY_EXITED" in str(error):
        return "Spark needs Java, a JDK of 17 or more: install one, or set JAVA_HOME"
    return f"Spark: {lines[-1] if lines else type(error).__name__}"


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
