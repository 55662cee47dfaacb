"""Runs in the interpreter that the user chose: executes cells, and sends what they print. Imports nothing of ours.

Its text is sent to ``python -i``. From then on requests come on standard input, one JSON object in a line, and
frames go to standard output: a letter, the length, a line feed, the bytes. ``O`` is output, ``F`` a figure in PNG,
``E`` the end of a cell. A cell sees neither: its standard input is empty, and what it and its processes write goes
through a pipe.
"""

import ast
import json
import linecache
import os
import queue
import signal
import sys
import threading
import traceback
import types
from typing import Any

GREETING = b"gptoss-python 1\n"


def run() -> None:
    """Serve requests until standard input ends."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    requests = os.fdopen(os.dup(0), "rb")
    frames = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    source, sink = os.pipe()
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="replace", closefd=False, buffering=1)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="replace", closefd=False, buffering=1)
    cells: Any = queue.Queue()
    ended = threading.Event()
    mark = os.urandom(16)
    lock = threading.Lock()
    main_thread = threading.get_ident()
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def send(kind: bytes, data: bytes = b"") -> None:
        with lock:
            frames.write(b"%s %d\n%s" % (kind, len(data), data))
            frames.flush()

    def read() -> None:
        for line in requests:
            if not line.strip():
                continue
            request = json.loads(line)
            if request.get("interrupt"):
                signal.pthread_kill(main_thread, signal.SIGINT)
            else:
                cells.put(request["code"])
        os._exit(0)

    def forward() -> None:
        held = b""
        while True:
            data = held + os.read(source, 32768)
            before, found, after = data.partition(mark)
            keep = 0 if found else next((n for n in range(15, 0, -1) if data.endswith(mark[:n])), 0)
            text = before[: len(before) - keep]
            if text:
                send(b"O", text)
            held = after if found else data[len(data) - keep :]
            if found:
                ended.set()

    threading.Thread(target=read, daemon=True).start()
    threading.Thread(target=forward, daemon=True).start()
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    frames.write(GREETING)
    frames.flush()
    number = 0
    while True:
        try:
            code = cells.get()
            number += 1
            execute(code, main.__dict__, f"<cell {number}>")
            for figure in figures():
                send(b"F", figure)
        except BaseException:  # an interrupt between two cells, or of the figures
            traceback.print_exc(limit=0)
        try:
            sys.stdout.flush()
            sys.stderr.flush()
            ended.clear()
            os.write(sink, mark)
            ended.wait()
            send(b"E")
        except KeyboardInterrupt:
            send(b"E")


def execute(code: str, names: Any, where: str) -> None:
    """Execute a cell, and print the value of its last expression."""
    linecache.cache[where] = (len(code), None, code.splitlines(True), where)
    try:
        tree = ast.parse(code, where)
    except (SyntaxError, ValueError) as error:
        traceback.print_exception(type(error), error, None)
        return
    try:
        last: Any = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, where, "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), where, "eval"), names)
            if value is not None:
                names["_"] = value
                print(repr(value))
    except BaseException as error:
        # Without this function's own frame.
        inner = error.__traceback__.tb_next if error.__traceback__ is not None else None
        traceback.print_exception(type(error), error, inner)


def figures() -> Any:
    """The open figures of matplotlib, closed."""
    pyplot: Any = sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        return
    import io

    for number in pyplot.get_fignums():
        image = io.BytesIO()
        pyplot.figure(number).savefig(image, format="png")
        yield image.getvalue()
    pyplot.close("all")
