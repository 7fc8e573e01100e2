"""Started by xdist in place of a worker's Python, with ``-I -S``: hands its standard streams to the fork server.

    shim.py SOCKET VARIABLES PYTHON -u -c BOOTSTRAP

``VARIABLES``: those that the worker is given by its specification, a dict as ``marshal`` writes it, in hexadecimal.
It lives as long as the forked worker and ends as it ended. Killing it kills the worker. Where the fork server is gone
or refuses, it becomes the plain ``PYTHON -u -c BOOTSTRAP``. Nothing but the standard library's C parts is imported:
its start is on the way of every worker.
"""

import _signal
import os
import sys


def main() -> None:
    name, given, plain = sys.argv[1], sys.argv[2], sys.argv[3:]
    try:
        status = ask(name, given, plain)
    except OSError:
        status = None
    if status is None:
        os.execv(plain[0], plain)  # noqa: S606
    for fd in (0, 1, 2):
        os.close(fd)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        if -code not in (_signal.SIGKILL, _signal.SIGSTOP):
            _signal.signal(-code, _signal.SIG_DFL)
        if -code not in (_signal.SIGINT, _signal.SIGKILL):  # no second core file
            import resource  # noqa: PLC0415

            resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        os.kill(os.getpid(), -code)
    os._exit(code)


def ask(name: str, given: str, plain: list) -> "int | None":
    """The worker's status once it has ended; None if there is none to be had. Raises OSError."""
    import _socket  # noqa: PLC0415 -- `socket` itself takes as long as all the rest
    import marshal  # noqa: PLC0415 -- both ends are the same Python

    server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    server.connect("\0" + name)
    mask = os.umask(0o22)
    os.umask(mask)
    env = {**os.environ, **marshal.loads(bytes.fromhex(given))}  # noqa: S302 -- from xdist's controller
    order = marshal.dumps({"argv": plain, "env": env, "cwd": os.getcwd(), "umask": mask})  # noqa: PTH109
    streams = b"".join(fd.to_bytes(4, sys.byteorder) for fd in (0, 1, 2))
    server.sendmsg([len(order).to_bytes(4, "big")], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, streams)])
    server.sendall(order)
    accepted = server.recv(1)
    if accepted != b"y":
        return None
    # Ctrl-C and a stop are sent to all of us; the worker says when it ends, and that is when we do.
    for number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGQUIT):
        _signal.signal(number, _signal.SIG_IGN)
    # From here on the worker alone holds the streams: its end is their end.
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    answer = b""
    while not answer.endswith(b"\n"):
        piece = server.recv(64)
        if not piece:
            os._exit(1)  # the fork server is gone, and its children with it
        answer += piece
    return int(answer)


main()
