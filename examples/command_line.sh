#!/usr/bin/env bash
# The way from a table of posts to explained predictions. Results go to the folder given, or to a temporary one.
set -euo pipefail
out=${1:-$(mktemp -d)}
mkdir -p "$out"

# Any table with the columns text, image and label will do; here some of the demo posts, cut in two.
python - "$out" <<'PY'
import sys
from cotune.demo import read_demo_posts

posts = read_demo_posts()
for part, rows in posts.groupby("split"):
    rows.head(80).to_csv(f"{sys.argv[1]}/{part}.csv", index=False)
PY

cotune check "$out/train.csv"                                               # what to fix before training
cotune fit "$out/train.csv" --out "$out/run" --tune frozen                  # leave --tune away for joint fine-tuning
cotune info "$out/run"
cotune evaluate "$out/run" "$out/test.csv" --bootstrap 200                  # every score with an interval
cotune predict "$out/run" "$out/test.csv" --out "$out/predictions.csv"      # one row for every post
cotune predict "$out/run" --text "what a lovely day"                        # a single post
cotune explain "$out/run" "$out/test.csv" --find conflicts --limit 5        # posts whose text and image disagree
echo "results are in $out"
