# Sourced by the other scripts: creates .venv if needed and installs the project into it.
# Later calls reuse it, and install again only after a change of pyproject.toml.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv"

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: runner needs Python 3.11 or newer; set PYTHON=/path/to/python3" >&2
  return 1
}

# install [extra]: a copy of pyproject.toml in .venv records what is installed.
install() {
  local extra="${1:-}" stamp="$venv/installed-${1:-base}.toml"
  if cmp -s "$root/pyproject.toml" "$stamp" 2>/dev/null; then return; fi
  if [ ! -x "$venv/bin/python" ]; then
    local python
    python="$(find_python)"
    echo "creating $venv" >&2
    "$python" -m venv "$venv"
  fi
  echo "installing runner${extra:+ with its $extra extra}; the first time takes some minutes (PyTorch)" >&2
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$root${extra:+[$extra]}" >&2
  cp "$root/pyproject.toml" "$stamp"
}
