# Sourced by the scripts beside it: makes .venv if there is none and installs the project into it.
# A later call re-uses it, and installs again only when pyproject.toml has changed.

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

# install [extra]: what is installed is remembered as a copy of pyproject.toml beside it.
install() {
  local extra="${1:-}" stamp="$venv/installed-${1:-base}.toml"
  if cmp -s "$root/pyproject.toml" "$stamp" 2>/dev/null; then return; fi
  if [ ! -x "$venv/bin/python" ]; then
    local python
    python="$(find_python)"
    echo "making $venv" >&2
    "$python" -m venv "$venv"
  fi
  echo "installing runner${extra:+ with its $extra extra}; PyTorch makes this take some minutes the first time" >&2
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$root${extra:+[$extra]}" >&2
  cp "$root/pyproject.toml" "$stamp"
}
