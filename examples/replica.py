"""A serving process on another host: told of versions on a topic, it pulls and serves each.

    python replica.py --bootstrap-servers broker:9092 --topic versions --state replica --token-file token

Needs `pip install recunlearn`. `recunlearn serve --state replica` beside it serves what it pulled.
"""

import argparse
import json
import time
from pathlib import Path

from kafka import KafkaConsumer
from recunlearn.engine.state import StateError
from recunlearn.engine.version_transfer import pull


def main() -> None:
    """Follow the topic for ever; a version that cannot be pulled now is tried again with the next one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bootstrap-servers", required=True)
    parser.add_argument("--topic", default="versions")
    parser.add_argument("--state", default="replica")
    parser.add_argument("--token-file", type=Path)
    options = parser.parse_args()
    token = options.token_file.read_text().strip() if options.token_file else None
    # No group: the topic is compacted to the newest version, so it is read from its start each time.
    consumer = KafkaConsumer(
        options.topic,
        bootstrap_servers=options.bootstrap_servers,
        group_id=None,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    waiting = None
    while True:
        for messages in consumer.poll(timeout_ms=1000).values():
            waiting = json.loads(messages[-1].value)  # only the newest can still be fetched
        if waiting is None:
            continue
        try:
            done = pull(
                waiting["location"], options.state, waiting["version"], waiting["manifest_sha256"], token
            )
        except (StateError, OSError) as error:
            print(f"version {waiting['version']} is not here: {error}", flush=True)
            if isinstance(error, StateError):
                waiting = None  # refused: the next one may be better
            time.sleep(1)
        else:
            print(f"serving version {done.version}", flush=True)
            waiting = None


if __name__ == "__main__":
    main()
