"""Judges `blockyard image map NAME --hashes --json` with Python's own hashes: every run of data must be
one cluster with the hash of its bytes, every other run zeros, and together they must be the disk.

    check_hashes.py ALGORITHM MAP.json DISK

Prints how many hashes it found true. Exit code: 0 if all are.
"""

import hashlib
import json
import sys

CLUSTER = 4096

algorithm, map_path, disk_path = sys.argv[1:]
with open(map_path) as file:
    runs = json.load(file)
with open(disk_path, "rb") as file:
    disk = file.read()

end = 0
judged = 0
for run in runs:
    offset, length, state = run["offset"], run["length"], run["state"]
    if offset != end:
        sys.exit(f"a gap or an overlap at {end}: {run}")
    end += length
    content = disk[offset:end]
    if state in ("zero", "reserved"):
        if any(content):
            sys.exit(f"said to be zero, and is not: {run}")
        continue
    if state != "data" or length > CLUSTER or offset % CLUSTER != 0:
        sys.exit(f"not a cluster with a trusted hash: {run}")
    # A cluster is hashed whole: past the end of the disk there are zeros.
    expected = hashlib.new(algorithm, content.ljust(CLUSTER, b"\0")).hexdigest().ljust(64, "0")
    if run["hash"] != expected:
        sys.exit(f"the hash is {expected}, not what is said: {run}")
    judged += 1
if end != len(disk):
    sys.exit(f"the map ends at {end}, the disk at {len(disk)}")
print(judged)
