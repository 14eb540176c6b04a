"""Started by a test: the status service of a place in two processes. Arguments: port, file for a request."""

from __future__ import annotations

import sys
from pathlib import Path

from prometheus_client import CollectorRegistry

from exclave import ids
from exclave.serve.ocsp import Listen, OcspMetrics, OcspSite
from exclave.serve.ocsp_workers import run_ocsp_workers
from support.ocsp_place import make_place, request_for

place = make_place(ids.now())
place.ticking = True
Path(sys.argv[2]).write_bytes(request_for(place.good, place.pki.first))
listen = Listen("127.0.0.1", int(sys.argv[1]))
run_ocsp_workers(lambda: OcspSite(place.responder(), ids.now, OcspMetrics(CollectorRegistry())), listen, 2)
