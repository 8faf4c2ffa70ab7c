"""Kills a cycle at each step of a delivery to a real Redis, and at those beside it (see test_export.py).

    python kill_stores.py FOLDER URL

It forks a child for each step as kill_points.py does, and puts the store back to where it was before each.
"""

import json
import shutil
import sys
from pathlib import Path

from recunlearn.engine import durable
from recunlearn.engine.engine import Engine
from recunlearn.engine.exporters.registry import open_store, store_settings
from recunlearn.engine.receipts import open_receipt, read_lines, state_public_key
from recunlearn.engine.state import StatePaths

sys.path.insert(0, str(Path(__file__).parent))
from kill_points import cycle, describe, in_child, killed_at, prepare


def connect(state):
    """Connect to the store of a state, past the engine."""
    (settings,) = store_settings(StatePaths(state))
    return open_store(settings)


def prepare_with_store(state, url):
    """Make the state that the cycle begins from; its first version is in the store."""
    prepare("cycle", state)
    with StatePaths(state).config.open("a") as file:
        file.write(f'\n[[export]]\nname = "web"\nkind = "redis"\nurl = "{url}"\nrewrite = false\n')
    Engine.open(state).close()
    client = connect(state)._client
    return {key.decode(): client.dump(key).hex() for key in client.keys("*")}


def put_back(state, copy):
    """Let the store hold what it held."""
    client = connect(state)._client
    client.flushall()
    for key, content in copy.items():
        client.restore(key, 0, bytes.fromhex(content))


def names_of_steps(state):
    """Do the cycle and list its steps."""
    names = []
    real = durable.reached
    durable.reached = lambda step: (names.append(step), real(step))
    cycle(state)
    return names


def describe_all(state):
    """Say what must be the same, killed or not: the state's own, what the store holds, what receipts say."""
    store, paths = connect(state), StatePaths(state)
    receipts = [open_receipt(line, state_public_key(paths))["predicate"] for line in read_lines(paths)]
    (users,) = [block for block in store.read() if block.side == "users"]
    return {
        **describe(state),
        "store": {"users": sorted(users.ids), "vectors": sorted(users.vectors.tolist())},
        "others": list(store.others()),
        "stores": [[[one["name"], one["version"]] for one in receipt["stores"]] for receipt in receipts],
    }


def main(folder, url):
    """Print what no kill leads to, then what a kill at each step does."""
    template = folder / "template"
    _, copy = in_child(lambda: prepare_with_store(template, url))
    uninterrupted = folder / "uninterrupted"
    shutil.copytree(template, uninterrupted)
    _, names = in_child(lambda: names_of_steps(uninterrupted))
    _, expected = in_child(lambda: describe_all(uninterrupted))
    print(json.dumps(expected), flush=True)
    first = next(step for step, name in enumerate(names, 1) if "web" in name and "000002" in name)
    last = names.index("after: mark requests erased") + 1  # what follows is no other than without a store
    for step in range(first - 1, last + 1):
        state = folder / f"step-{step}"
        shutil.copytree(template, state)
        in_child(lambda state=state: put_back(state, copy))
        assert killed_at("cycle", step, state), step
        status, found = in_child(lambda state=state: (cycle(state), describe_all(state))[1])
        assert status == 0, names[step - 1]
        print(json.dumps({"step": names[step - 1], "found": found}), flush=True)
        shutil.rmtree(state)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
