"""A silo: its directory, from the node's configuration, has its key, its peers' keys and its rows."""

from pathlib import Path

import msgspec
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from recunlearn.engine.signing import SigningKey, read_public_key
from recunlearn.models.sums import Sums, sums_of
from recunlearn.streaming.federated.secure.flower import ACTION, Silo, answer
from recunlearn.streaming.federated.secure.party import Identity
from scipy import sparse

app = ClientApp()


@app.query(ACTION)
def say(message: Message, context: Context) -> Message:
    """Answer the coordinator."""
    root = Path(str(context.node_config["folder"]))
    peers = msgspec.json.decode((root / "peers.json").read_bytes(), type=dict[str, str])
    me = Identity(root.name, SigningKey.load(root / "key.pem"), peers)

    def contents(terms):
        path = root / f"{terms.what}.npz"
        if not path.exists():
            return "", Sums.nothing(terms.statistic)
        key = f"{me.name}/{terms.epoch}/{terms.what}"
        return key, sums_of(sparse.load_npz(path), terms.statistic)

    return answer(message, Silo(root, me, read_public_key((root / "hub.pub").read_bytes()), contents))
