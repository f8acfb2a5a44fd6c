# shellcheck shell=bash
# Part of ./run: getting Debian or Ubuntu packages. Root installs them. Other users unpack them under .dev/debs, with
# package lists of the project's own, so that the machine is not changed.

is_debian() {
    have apt-get && have apt-cache && have dpkg
}

# need_debian WHAT: stops on another system, and says what is missing there.
need_debian() {
    is_debian || die "$1 is missing, and this is not Debian or Ubuntu, where ./run could get it by itself." \
        "Install these by the means of this system, then repeat the command: Rust $RUST_WANTED or newer (https://rustup.rs)," \
        "a C compiler, pkg-config, OpenSSL with headers, PostgreSQL 15 or newer (server programs; no running server)," \
        "for ./run test and ./run check Python with pip and Node.js with npm, and for ./run check and ./run prepare" \
        "Postgres's extension plpgsql_check."
}

# The machine's package lists and our own are separate: that one is fresh says nothing about the other.
APT_UPDATED=
APT_OWN_UPDATED=
apt_install() {
    if [ -z "$APT_UPDATED" ]; then
        logged apt-update apt-get update -q
        APT_UPDATED=yes
    fi
    logged apt-install env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends "$@"
}

# apt-get and apt-cache with lists and archives of our own: needs no right to anything outside .dev, and works
# on a machine whose administrator never ran apt-get update.
apt_own() {
    local tool=$1 own="$DEV/debs/apt"
    shift
    mkdir -p "$own/lists/partial" "$own/cache/archives/partial"
    "$tool" -q -o Dir::State::Lists="$own/lists" -o Dir::Cache="$own/cache" \
        -o Dir::State::status=/var/lib/dpkg/status -o Dir::Log="$own" -o Debug::NoLocking=1 "$@"
}

apt_own_update() {
    [ -z "$APT_OWN_UPDATED" ] || return 0
    logged apt-own-update apt_own apt-get update
    APT_OWN_UPDATED=yes
}

# What these packages need at the least, themselves included.
closure() {
    apt_own apt-cache depends --recurse --important --no-conflicts --no-breaks --no-replaces --no-enhances "$@" |
        grep '^[a-z0-9]' | sed 's/:.*//' | sort -u
}

is_installed() {
    dpkg-query -W -f '${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed
}

# unpack DIRECTORY PACKAGE...: downloads exactly these packages and unpacks them there, running none of their scripts.
unpack() {
    local into=$1 deb
    shift
    mkdir -p "$into" "$DEV/debs/archives"
    rm -f "$DEV"/debs/archives/*.deb
    cd "$DEV/debs/archives" || return
    logged apt-download apt_own apt-get download "$@"
    cd "$ROOT" || return
    for deb in "$DEV"/debs/archives/*.deb; do
        dpkg-deb -x "$deb" "$into"
    done
    rm -f "$DEV"/debs/archives/*.deb
}

# unpack_missing DIRECTORY PACKAGE: unpacks a package and the libraries it needs that the machine does not have.
# Never the C library: it must be the one that the machine's own programs run with.
unpack_missing() {
    local into=$1 package=$2 name wanted=("$2")
    for name in $(closure "$package"); do
        case "$name" in
        # Not needed to run anything here: Postgres's just-in-time compiler, which is off; a stand-in for systemd; Perl.
        libllvm* | libz3-* | libelogind* | libc6 | libc-* | libperl* | lib*-perl | "$package") ;;
        postgresql-client-[0-9]*) wanted+=("$name") ;;
        lib*) is_installed "$name" || wanted+=("$name") ;;
        esac
    done
    unpack "$into" "${wanted[@]}"
    gather_libraries "$into"
}

# gather_libraries ROOT: links all shared libraries under ROOT into ROOT/shared, for LD_LIBRARY_PATH.
gather_libraries() {
    local root=$1 file
    mkdir -p "$root/shared"
    # Binutils' own libraries have their version before the ".so".
    for file in "$root"{,/usr}/lib/*-linux-gnu*/{*.so.*,*-system.so}; do
        [ ! -f "$file" ] || ln -sf "$file" "$root/shared/"
    done
}

# wrapper FILE PROGRAM SHARED [ARGUMENT...]: a small program that starts another one with libraries from SHARED.
wrapper() {
    local file=$1 program=$2 shared=$3
    shift 3
    mkdir -p "$(dirname "$file")"
    {
        echo '#!/bin/sh'
        # shellcheck disable=SC2016
        printf 'LD_LIBRARY_PATH=%q${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}\nexport LD_LIBRARY_PATH\n' "$shared"
        printf 'exec %q' "$program"
        [ $# -eq 0 ] || printf ' %q' "$@"
        printf ' "$@"\n'
    } >"$file"
    chmod 755 "$file"
}
