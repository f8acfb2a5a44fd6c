# shellcheck shell=bash
# Part of ./run: aiosmtpd, the mail server that tests send to (dev/smtp/server.py runs it). Root installs the system's
# package; other users unpack it under .dev/debs, with Python if there is none.

need_smtp() {
    SIDLE_DEV_SMTP_PYTHON=$(smtp_python)
    if [ -z "$SIDLE_DEV_SMTP_PYTHON" ]; then
        smtp_get
        SIDLE_DEV_SMTP_PYTHON=$(smtp_python)
    fi
    [ -n "$SIDLE_DEV_SMTP_PYTHON" ] || die "no Python with aiosmtpd was found, and getting it did not help." \
        "Install it (apt-get install python3-aiosmtpd, or pip install aiosmtpd) and repeat the command."
    export SIDLE_DEV_SMTP_PYTHON
    # shellcheck disable=SC2153 # set by run
    export SIDLE_DEV_SMTP_SERVER="$ROOT/dev/smtp/server.py"
}

# A Python that has aiosmtpd; nothing when there is none. The system's own comes before one of the caller's.
smtp_python() {
    local python
    for python in "$DEV/debs/smtp/wrappers/python3" /usr/bin/python3 "$(command -v python3 || true)"; do
        if [ -x "$python" ] && "$python" -c 'import aiosmtpd.smtp, ssl' 2>/dev/null; then
            printf '%s' "$python"
            return
        fi
    done
}

smtp_get() {
    need_debian "aiosmtpd (a mail server in Python)"
    if am_root; then
        say "smtp: installing python3-aiosmtpd with apt-get"
        apt_install python3-aiosmtpd
    else
        say "smtp: unpacking python3-aiosmtpd under .dev/debs (not root, so nothing is installed)"
        smtp_unpack
    fi
}

smtp_unpack() {
    local root="$DEV/debs/smtp" python=/usr/bin/python3 name wanted=()
    rm -rf "$root"
    apt_own_update
    # Its dependencies have had several names. Modules only: Python itself is the machine's where there is one.
    for name in $(closure python3-aiosmtpd); do
        case "$name" in
        python3-minimal | python3-distutils | python3-lib2to3) ;;
        python3-*) wanted+=("$name") ;;
        esac
    done
    if ! [ -x "$python" ] || ! "$python" -c 'import ssl, asyncio' 2>/dev/null; then
        for name in $(closure python3); do
            case "$name" in
            # Never the C library: it must be the one that the machine's own programs run with.
            libc6 | libc-* | libc6-* | *-bin | debconf* | cdebconf* | dpkg | tar | install-info) ;;
            python3* | libpython3* | lib*) is_installed "$name" || wanted+=("$name") ;;
            esac
        done
        python=$root/usr/bin/python3
    fi
    unpack "$root" "${wanted[@]}"
    gather_libraries "$root"
    mkdir -p "$root/wrappers"
    {
        echo '#!/bin/sh'
        # shellcheck disable=SC2016
        printf 'LD_LIBRARY_PATH=%q${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}\n' "$root/shared"
        # shellcheck disable=SC2016
        printf 'PYTHONPATH=%q${PYTHONPATH:+:$PYTHONPATH}\nexport LD_LIBRARY_PATH PYTHONPATH\nexec %q "$@"\n' \
            "$root/usr/lib/python3/dist-packages" "$python"
    } >"$root/wrappers/python3"
    chmod 755 "$root/wrappers/python3"
}
