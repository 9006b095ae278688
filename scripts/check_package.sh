#!/usr/bin/env bash
# Builds sdist and wheel, checks what is in them, installs the wheel into an empty environment, and uses it from there:
# the demo, and predictions of its run. Nothing of the checkout is on the path then.
#
#   scripts/check_package.sh [OUT]     OUT: where sdist and wheel are put, dist/ by default
#
# PYTHON chooses the interpreter; QUICK=1 leaves the installation out.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=$(mkdir -p "${1:-$root/dist}" && cd "${1:-$root/dist}" && pwd)
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
step() { echo "== $*"; }

step "build"
"$python" -m venv "$work/tools"
"$work/tools/bin/pip" install --quiet --disable-pip-version-check build twine
# From a copy of what git knows, so that nothing that happens to lie about gets in.
mkdir "$work/source"
git -C "$root" ls-files -z | (cd "$root" && xargs -0 tar -cf -) | tar -xf - -C "$work/source"
"$work/tools/bin/python" -m build --quiet --outdir "$work/dist" "$work/source"
wheel=$(echo "$work"/dist/*.whl)

step "check"
"$work/tools/bin/twine" check --strict "$work"/dist/*
"$python" "$root/scripts/check_wheel.py" "$wheel" "$work"/dist/*.tar.gz "$work/source"

if [ -z "${QUICK:-}" ]; then
    step "install into an empty environment"
    "$python" -m venv "$work/empty"
    "$work/empty/bin/pip" install --quiet --disable-pip-version-check "$wheel[bundled]"
    mkdir "$work/elsewhere"
    cd "$work/elsewhere"
    export COTUNE_CACHE="$work/cache" HF_HUB_OFFLINE=1
    unset PYTHONPATH COTUNE_ENGINE
    cotune="$work/empty/bin/cotune"
    "$cotune" --version
    "$work/empty/bin/python" -c "import cotune, pathlib, sys; sys.exit(str(pathlib.Path(cotune.__file__)).find('$work/empty') < 0)"

    step "cotune demo"
    "$cotune" demo --out run

    step "cotune predict"
    demo=$("$work/empty/bin/python" -c "from cotune.demo import demo_posts_path; print(demo_posts_path())")
    "$cotune" predict run "$demo" --out predictions.csv
    "$cotune" predict run --text "what a lovely day"
    rows=$("$work/empty/bin/python" -c "import pandas; t = pandas.read_csv('predictions.csv'); assert t['error'].isna().all(); print(len(t))")
    test "$rows" = 1000 || { echo "error: predictions.csv has $rows rows, not 1000"; exit 1; }
fi
cp "$work"/dist/* "$out"
step "done: $(cd "$out" && ls -1 ./*.whl ./*.tar.gz | tr '\n' ' ')"
