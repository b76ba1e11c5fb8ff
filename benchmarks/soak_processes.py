"""Environment variables and ports for several processes of one training run, as paddle's launcher sets them."""

from __future__ import annotations

import socket


def environments_of(num_processes: int) -> list[dict[str, str]]:
    """Return the variables that paddle's launcher sets for each process; none for a single process."""
    if num_processes == 1:
        return [{}]
    ports = [free_port() for _ in range(num_processes + 1)]
    addresses = [f"127.0.0.1:{port}" for port in ports]
    return [
        {
            "PADDLE_MASTER": addresses[-1],
            "PADDLE_TRAINER_ENDPOINTS": ",".join(addresses[:-1]),
            "PADDLE_CURRENT_ENDPOINT": addresses[rank],
            "PADDLE_TRAINERS_NUM": str(num_processes),
            "PADDLE_LOCAL_SIZE": str(num_processes),
            "PADDLE_GLOBAL_SIZE": str(num_processes),
            "PADDLE_TRAINER_ID": str(rank),
            "PADDLE_RANK_IN_NODE": str(rank),
            "PADDLE_LOCAL_RANK": str(rank),
            "PADDLE_GLOBAL_RANK": str(rank),
            "PADDLE_NNODES": "1",
            "PADDLE_DISTRI_BACKEND": "gloo",
            "FLAGS_selected_cpus": "0",
        }
        for rank in range(num_processes)
    ]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def join(environment: dict[str, str]) -> None:
    """Make paddle read the variables again, which it reads at import."""
    if environment:
        import paddle.distributed.parallel as parallel

        parallel._global_parallel_env = None
