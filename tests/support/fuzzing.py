"""How fuzzers are started by tests."""

from __future__ import annotations

NO_RSS = "-rss_limit_mb=0"
"""libFuzzer's own limit looks at the peak that the kernel counted, which a child takes over from whoever started it."""
