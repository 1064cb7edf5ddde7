"""The figures of table.sh as a table, and what must hold of them.

Input: lines "ROUND|LINK|WHO|OPERATION|BYTES|FIGURE"; GB/s, or microseconds for half_trip.
Each cell is the median of the rounds; a ratio is the median of the rounds' ratios.
"""
import collections
import statistics
import sys

LINKS = {"tcp": "loopback TCP", "shm": "shared memory"}
KIB, MIB = 1024, 1 << 20
PEERS = "nixl", "mooncake", "gloo", "Open MPI"
LANDED = {  # What an operation that counts has done.
    "causeway": "landed: the receiver has said so (write, send), or here (read)",
    "ucx tag_bw": "taken by the receiver; the last ones at the sender only",
    "ucx am_bw": "taken by the receiver; the last ones at the sender only",
    "ucx put_bw": "sent; a flush at the end",
    "ucx get": "landed here, one at a time",
    "iperf3": "read by the receiver",
    "nixl": "done, as its agent says (UCX: flushed)",
    "mooncake": "done, as its engine says",
    "gloo": "received; a barrier at the end",
    "Open MPI": "received (send), flushed (write), here (read)",
}


def load(path):
    values = collections.defaultdict(dict)  # (link, who, operation, bytes) -> {round: figure}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            turn, link, who, operation, size, figure = line.strip().split("|")
            values[link, who, operation, int(size)][int(turn)] = float(figure)
    return values


def median(rounds):
    return statistics.median(rounds.values()) if rounds else None


def size_name(size):
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"


def print_table(values):
    sizes = sorted({size for (_, _, operation, size) in values if operation != "half_trip"})
    print("\n| link | who | operation | " + " | ".join(map(size_name, sizes)) + " | 8 B, us | counts when |")
    print("|---" * (len(sizes) + 5) + "|")
    for link, link_name in LINKS.items():
        rows = []  # In the order in which they were measured.
        for found, who, operation, _ in values:
            if found == link and operation != "half_trip" and (who, operation) not in rows:
                rows.append((who, operation))
        rows += [(who, "-") for found, who, operation, _ in values
                 if found == link and operation == "half_trip" and who not in {w for w, _ in rows}]
        rows.sort(key=lambda row: (row[0] != "causeway", ("write", "read", "send", "-").index(row[1])))
        for who, operation in rows:
            cells = [median(values.get((link, who, operation, size))) for size in sizes]
            trip = median(values.get((link, who, "half_trip", 8))) if operation in ("send", "-") else None
            landed = LANDED.get(who.split(",")[0], "there and back")
            if link == "shm" and who == "causeway" and operation != "send":
                landed = "stored (write), loaded (read)"
            print(f"| {link_name} | {who} | {operation} | "
                  + " | ".join("" if cell is None else f"{cell:.2f}" for cell in cells)
                  + f" | {'' if trip is None else f'{trip:.2f}'} | {landed} |")


def ratio(ours, theirs):
    """Of the rounds in which both were measured."""
    shared = [turn for turn in ours if theirs.get(turn)]
    return statistics.median(ours[turn] / theirs[turn] for turn in shared) if shared else None


def against(values, link, operation, size, others):
    """The one of `others` that leaves us the smallest ratio: (ratio, name)."""
    ours = values.get((link, "causeway", operation, size), {})
    found = []
    for who, theirs in others:
        share = ratio(ours, values.get((link, who, theirs, size), {}))
        if share is not None:
            found.append((share, f"{who} {theirs}"))
    return min(found, default=None)


def verdict(text, found, at_least):
    if found is None:
        print(f"- {text}: nothing to compare with")
        return
    share, name = found
    print(f"- {text}: {share:.2f} of {name}, wanted {at_least}: {'met' if share >= at_least else 'MISSED'}")


def print_verdicts(values):
    sizes = sorted({size for (_, who, operation, size) in values if who == "causeway" and operation == "write"})
    print("\nVerdicts (medians of the rounds' ratios):")
    for link, link_name in LINKS.items():
        for operation, share in ("write", 0.9), ("read", 0.85), ("send", 0.9):
            for size in sizes:
                what = f"{link_name}, {operation} of {size_name(size)}"
                # A peer with no such operation is compared by what it has: a stream that arrives.
                peers = [(who, operation if (link, who, operation, size) in values else "send") for who in PEERS]
                if size >= 64 * KIB:
                    verdict(what + " against the best peer", against(values, link, operation, size, peers), 1.0)
                    if link == "tcp":
                        verdict(what + " against iperf3", against(values, link, operation, size, [("iperf3", operation)]), 1.0)
                if size < MIB:
                    continue
                for mode in ("", ", peer errors") if link == "tcp" else ("",):
                    raw = [(f"ucx {test}{mode}", "send") for test in ("tag_bw", "am_bw")]
                    if operation == "read":
                        raw.append((f"ucx get{mode}", "read"))
                    verdict(what + " against raw UCX" + mode, against(values, link, operation, size, raw), share)
    for link, mode in ("tcp", ""), ("tcp", ", peer errors"), ("shm", ""):
        ours = values.get((link, "causeway", "half_trip", 8), {})
        share = ratio(ours, values.get((link, "ucx am_lat" + mode, "half_trip", 8), {}))
        if share is not None:
            print(f"- half a round trip of 8 B by {LINKS[link]}: {share:.2f} times raw AM{mode}, "
                  f"wanted 1.5 at most: {'met' if share <= 1.5 else 'MISSED'}")


if __name__ == "__main__":
    figures = load(sys.argv[1])
    print_table(figures)
    print_verdicts(figures)
