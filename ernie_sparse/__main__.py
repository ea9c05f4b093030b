# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""`python -m ernie_sparse` is the command `ernie-sparse`."""

import sys

from .cli import main

sys.exit(main())
