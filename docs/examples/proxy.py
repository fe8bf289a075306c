"""Optuna's gRPC proxy before a database, for hundreds of workers; see docs/cluster.md.

    export SRET_NAS_STORAGE=postgresql://…   # or @FILE with it
    python docs/examples/proxy.py 13000

Workers are told ``--storage grpc://HOST:13000``. It has no password of its own: keep its
port within the cluster.
"""

import os
import sys

from optuna.storages import get_storage, run_grpc_proxy_server

from sret_nas.study.address import Address

if __name__ == "__main__":
    address = Address.parse(os.environ["SRET_NAS_STORAGE"])
    everywhere, port = "0.0.0.0", int(sys.argv[1])  # noqa: S104
    run_grpc_proxy_server(get_storage(address.secret), host=everywhere, port=port)
