#!/usr/bin/env bash
# Brings the files of b4m that the nodes run into this folder, as they are: a custom node installs nothing.
set -euo pipefail
cd "$(dirname "$0")"
for file in core/{errors,atomic,storage}.py maths/plp.py files/{fused,concept}.py; do
    mkdir -p "b4m/${file%/*}"
    cp "../../src/b4m/$file" "b4m/$file"
done
for folder in . core maths files; do : > "b4m/$folder/__init__.py"; done
