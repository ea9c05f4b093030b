# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""What test_gpu.py measures in processes of their own: they import it from here."""

import os
import subprocess
import sys
import time


def answer(settings: dict, say) -> dict:
    say("working")
    print("to the log")
    return {"answer": settings["number"]}


def crash(settings: dict, say) -> dict:
    print("about to crash", flush=True)
    os.abort()


def fail(settings: dict, say) -> dict:
    raise ValueError("no such thing")


def hang(settings: dict, say) -> dict:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    say(str(child.pid))
    time.sleep(60)
