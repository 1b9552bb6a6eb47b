# Sourced by the other scripts: makes .venv once, installs what is pinned, and puts it on the PATH. Argument: extras, as in [dev].
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
wanted="$(cd "$root" && cat setup.py pyproject.toml constraints.txt | cksum) ${1:-}"
installed() { [ "$(cat "$root/.venv/installed$1" 2>/dev/null)" = "$wanted" ]; }
if ! installed "${1:-}"; then
    (
        set -e
        cd "$root"
        python="$(command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)"
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
            { echo "b4m: error: Python 3.11 or newer is needed, found $("$python" --version); install it and run this again" >&2; exit 2; }
        [ -x .venv/bin/python ] || "$python" -m venv .venv
        .venv/bin/python -m pip install --quiet --constraint constraints.txt "torch==$(sed -n 's/^torch==//p' constraints.txt)"
        .venv/bin/python -m pip install --quiet --constraint constraints.txt --editable ".${1:-}"
        echo "$wanted" > ".venv/installed${1:-}"
    )
    installed "${1:-}" || return 2
fi
export PATH="$root/.venv/bin:$PATH" TOKENIZERS_PARALLELISM=false TRANSFORMERS_VERBOSITY=error DIFFUSERS_VERBOSITY=error
