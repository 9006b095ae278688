"""Ask a service for a prediction: python client.py "what a lovely day" photo.jpg (the service: cotune serve RUN)."""

import os
import sys

import httpx

url = os.environ.get("COTUNE_URL", "http://127.0.0.1:8000")
with open(sys.argv[2], "rb") as image:  # noqa: PTH123
    answer = httpx.post(f"{url}/v1/predict", files={"text": (None, sys.argv[1]), "image": image}, timeout=60)
answer.raise_for_status()
print(answer.json()["predictions"][0])
