"""A rollout of two stages, its signer's key, and tables of results."""

import base64

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rlrs.yaml_files import dump_yaml

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = base64.b64encode(KEY.public_key().public_bytes_raw()).decode()
NOISE = (0.004, -0.006, 0.001, 0.003, -0.002, 0.005, -0.004, 0.002)


def stage(**changes):
    return {"metric": "valid_loss", "max_pairs": 8, "back_out": "Ann puts the old rates back.", **changes}


def declaration(folder, name="rollout.yaml", **sandbox):
    plain = {
        "name": "rates",
        "baseline": "old",
        "candidate": "new",
        "signers": {"ann": PUBLIC},
        "stages": {"sandbox": stage(**sandbox), "middle": stage()},
    }
    path = folder / name
    path.write_text(dump_yaml(plain))
    return path


def rows(pairs, gain=0.05):
    """Rows of a table: new is `gain` below old, with some noise."""
    for n in range(pairs):
        old = 3.2 + 0.02 * (n % 3)
        yield "old", n, old
        yield "new", n, old - gain + NOISE[n]


def table(folder, pairs, gain=0.05, name="results.csv", extra=""):
    path = folder / name
    lines = [f"{arm},{run},{loss:.6f}," for arm, run, loss in rows(pairs, gain)]
    path.write_text("\n".join(["arm,run,valid_loss,status", *lines]) + "\n" + extra)
    return path
