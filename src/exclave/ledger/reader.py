"""Reading a log is the verifier's work; those who write have it under this name too."""

from exclave.verify.logs import LogReader, LogTree

__all__ = ["LogReader", "LogTree"]
