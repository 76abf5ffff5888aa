"""Runs `subscribe(url)` of a file: run.py FILE URL. One line of JSON for each event that it gives."""

import http.client
import json
import os
import runpy
import sys

if os.environ.get("HTTP_1_0"):
    # What a client of HTTP/1.0 is sent is not in chunks.
    http.client.HTTPConnection._http_vsn = 10
    http.client.HTTPConnection._http_vsn_str = "HTTP/1.0"

for event, id, data in runpy.run_path(sys.argv[1])["subscribe"](sys.argv[2]):
    print(json.dumps({"event": event, "id": id, "data": data}), flush=True)
