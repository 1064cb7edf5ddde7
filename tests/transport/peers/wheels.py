"""Write and read by a peer that comes as a Python wheel, as ucx_copy_bench measures ours:

    wheels.py nixl|mooncake BYTES...

Two processes over loopback; host memory; a window of transfers in flight, each waited for. Prints
"OPERATION BYTES GB/s" per line. Exit 3: the wheel is not there, with the reason.
"""
import ctypes
import multiprocessing
import os
import sys
import time

SAMPLE_SECONDS = 0.3


def window(size):
    return 32 if size <= 65536 else 4


def memory(size):
    buffer = (ctypes.c_char * size)()
    ctypes.memset(buffer, 1, size)
    return buffer, ctypes.addressof(buffer)


def measure(one_window, size):
    """GB/s of windows, until the sample is long enough."""
    one_window()  # Connects.
    moved, began = 0, time.perf_counter()
    while True:
        one_window()
        moved += window(size) * size
        took = time.perf_counter() - began
        if took > SAMPLE_SECONDS:
            return moved / took / 1e9


def report(operation, size, rate):
    print(operation, size, f"{rate:.4f}", flush=True)


def nixl_agent(name):
    try:
        from nixl_cu12._api import nixl_agent as agent, nixl_agent_config as config
    except ImportError:
        from nixl_cu13._api import nixl_agent as agent, nixl_agent_config as config
    return agent(name, config(enable_prog_thread=True, backends=["UCX"]))


def nixl_serve(pipe, size):
    agent = nixl_agent("target")
    buffer, address = memory(size)
    agent.register_memory([(address, size, 0, "")], "DRAM")
    pipe.send((agent.get_agent_metadata(), address))
    pipe.recv()  # Until the other side has finished; a thread of the agent makes progress.
    del buffer


def nixl(pipe, sizes):
    metadata, remote = pipe.recv()
    agent = nixl_agent("initiator")
    buffer, local = memory(max(sizes))
    agent.register_memory([(local, max(sizes), 0, "")], "DRAM")
    peer = agent.add_remote_agent(metadata)
    peer = peer.decode() if isinstance(peer, bytes) else peer
    for size in sizes:
        for operation in "write", "read":
            handles = [
                agent.initialize_xfer(
                    operation.upper(),
                    agent.get_xfer_descs([(local, size, 0)], "DRAM"),
                    agent.get_xfer_descs([(remote, size, 0)], "DRAM"),
                    peer,
                )
                for _ in range(window(size))
            ]

            def one_window():
                states = [agent.transfer(handle) for handle in handles]
                for state, handle in zip(states, handles):
                    while state == "PROC":
                        state = agent.check_xfer_state(handle)
                    if state != "DONE":
                        raise RuntimeError(f"{operation} of {size}: {state}")

            report(operation, size, measure(one_window, size))
            for handle in handles:
                agent.release_xfer_handle(handle)
    pipe.send("done")
    del buffer


def mooncake_engine():
    from mooncake.engine import TransferEngine

    engine = TransferEngine()
    if engine.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", "") != 0:
        raise RuntimeError("the engine does not start")
    return engine


def mooncake_serve(pipe, size):
    engine = mooncake_engine()
    buffer, address = memory(size)
    engine.register_memory(address, size)
    pipe.send((f"127.0.0.1:{engine.get_rpc_port()}", address))
    pipe.recv()
    del buffer


def mooncake(pipe, sizes):
    peer, remote = pipe.recv()
    engine = mooncake_engine()
    buffer, local = memory(max(sizes))
    engine.register_memory(local, max(sizes))
    calls = {
        "write": engine.batch_transfer_sync_write,
        "read": engine.batch_transfer_sync_read,
    }
    for size in sizes:
        count = window(size)
        for operation, call in calls.items():

            def one_window():
                if call(peer, [local] * count, [remote] * count, [size] * count) != 0:
                    raise RuntimeError(f"{operation} of {size} failed")

            report(operation, size, measure(one_window, size))
    pipe.send("done")
    del buffer


def main():
    who, sizes = sys.argv[1], [int(word) for word in sys.argv[2:]]
    serve, run = {"nixl": (nixl_serve, nixl), "mooncake": (mooncake_serve, mooncake)}[who]
    try:
        __import__({"nixl": "nixl", "mooncake": "mooncake.engine"}[who])
    except ImportError as error:
        print(f"{who} cannot be imported: {error}", file=sys.stderr)
        sys.exit(3)
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there, max(sizes)))
    server.start()
    try:
        run(here, sizes)
    finally:
        sys.stdout.flush()
        server.kill()
        server.join()
    os._exit(0)  # The libraries' own threads are no matter any more.


if __name__ == "__main__":
    main()
