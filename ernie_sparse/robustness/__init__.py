# Copyright 2026 The ernie-sparse authors. Licensed under the Apache License, Version 2.0.
"""A model under other sparse patterns: what each changes and costs, and the cheapest that keeps the score."""
