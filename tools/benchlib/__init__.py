# SPDX-License-Identifier: MIT
"""The parts of tools/bench; docs/performance.md says what they measure and how to read it."""
