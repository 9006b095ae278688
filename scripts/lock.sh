#!/usr/bin/env bash
# Pins packages by version and hash, with uv ($1): those of the images (deploy/), and of the tests, their oldest
# versions, the tools and the fuzzer (requirements/). What is pinned already stays as long as it is allowed;
# UPGRADE=1 takes the newest of all.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
uv=$(realpath "$1")
lock() { # folder, Python, output, further arguments
    local folder=$1 python=$2 out=$3
    shift 3
    (cd "$folder" && "$uv" pip compile --quiet --python-version "$python" --generate-hashes --no-header \
        --custom-compile-command "make lock" ${UPGRADE:+--upgrade} "$@" -o "$out")
}
for set in build serve ray; do
    lock deploy 3.12 "requirements-$set.txt" --universal "requirements-$set.in"
done
for set in tools fuzz; do
    lock requirements 3.11 "$set.txt" --universal "$set.in"
done
lock . 3.11 requirements/ci.txt --universal --extra dev pyproject.toml requirements/ci.in
# The lowest version of everything that pyproject.toml names, for one platform, as wheels of that age have few. Without
# the extras `clean` and `ray`, which need a newer numpy (2.0) and pandas (2.2.3) than cotune itself.
extras=()
for extra in bundled datasets evasion excel explain export lora s3 serve tensorboard tune; do
    extras+=(--extra "$extra")
done
lock . 3.11 requirements/oldest.txt --upgrade --resolution lowest-direct --python-platform x86_64-manylinux_2_28 \
    "${extras[@]}" pyproject.toml requirements/oldest.in deploy/requirements-build.in
