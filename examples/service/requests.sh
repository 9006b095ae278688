#!/usr/bin/env bash
# Ask a service (cotune serve RUN) with curl: bash requests.sh photo.jpg [http://127.0.0.1:8000]
set -euo pipefail
image=$1
url=${2:-http://127.0.0.1:8000}

curl -sS --fail-with-body "$url/readyz"; echo
curl -sS --fail-with-body "$url/v1/model"; echo
curl -sS --fail-with-body "$url/v1/predict" -F "text=what a lovely day" -F "image=@$image"; echo     # one post, as a form
echo "{\"posts\": [{\"id\": \"a\", \"fields\": {\"text\": \"what a day\"}},
                  {\"id\": \"b\", \"fields\": {\"image\": \"$(base64 < "$image" | tr -d '\n')\"}}]}" |
  curl -sS --fail-with-body "$url/v1/predict" -H "Content-Type: application/json" -d @-; echo         # several, as JSON
