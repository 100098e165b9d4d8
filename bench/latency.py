"""One file at a time into an idle outbox that holds many signed ones: from its close to its FILE.sign.

Usage: python -m bench.latency [--signed N] [--drops N]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from bench.peers import nginx
from tests.support.sandbox import sandbox, wait_until


def main() -> None:
    """Fill, drop, and print the latencies over the settle time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--signed", type=int, default=10_000)
    parser.add_argument("--drops", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, sandbox(Path(name) / "box") as box:
        settle = box.settings["outbox"]["settle_after_close_seconds"]
        with nginx(box, Path(name) / "nginx"):
            for index in range(options.signed):
                box.drop(f"old/{index % 100}/{index}", index.to_bytes(8, "big"))
            box.start_daemon()
            wait_until(lambda: sum(1 for _ in box.outbox.rglob("*.sign")) >= options.signed, 600, "the old files")
            time.sleep(1)
            latencies = []
            for index in range(options.drops):
                path = box.drop(f"new{index}", index.to_bytes(8, "big"))
                closed, sign = time.monotonic(), box.sign_of(path)
                while not sign.exists():
                    time.sleep(0.0005)
                latencies.append(time.monotonic() - closed - settle)
                time.sleep(0.05)
    latencies.sort()
    print(f"{options.drops} drops beside {options.signed} signed files, milliseconds over the settle time:")
    print(f"  median {statistics.median(latencies) * 1000:.1f}, 99th percentile {latencies[-1] * 1000:.1f}")


if __name__ == "__main__":
    main()
