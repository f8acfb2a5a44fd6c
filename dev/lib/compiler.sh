# shellcheck shell=bash
# Part of ./run: C compiler, pkg-config and OpenSSL's headers, which some of the crates are built with.
# The linker is left alone: Rust brings its own fast one (rust-lld) on x86_64 Linux.

COMPILER_PACKAGES=(gcc libc6-dev pkg-config libssl-dev)

compiler_complete() {
    have cc && have pkg-config && pkg-config --exists openssl
}

need_compiler() {
    # Once unpacked it stays in use, so that later changes of the machine do not make cargo build everything again.
    if [ -e "$DEV/debs/cc/complete" ]; then
        use_unpacked_compiler
        return
    fi
    ! compiler_complete || return 0
    need_debian "A C compiler, pkg-config or OpenSSL's headers"
    if am_root; then
        say "compiler: installing ${COMPILER_PACKAGES[*]} with apt-get"
        apt_install "${COMPILER_PACKAGES[@]}"
    else
        say "compiler: unpacking ${COMPILER_PACKAGES[*]} under .dev/debs (not root, so nothing is installed)"
        unpack_compiler
        use_unpacked_compiler
    fi
    compiler_complete || die "the C compiler, pkg-config or OpenSSL's headers are still not usable." \
        "Install them by hand (apt-get install ${COMPILER_PACKAGES[*]}) and repeat the command."
}

# C++ as well, which only libFuzzer is built with.
need_cxx() {
    ! have c++ || return 0
    need_debian "A C++ compiler"
    am_root || die "there is no C++ compiler, which the fuzz targets need." \
        "Ask an administrator for it (apt-get install g++) and repeat the command."
    say "compiler: installing g++ with apt-get"
    apt_install g++
}

unpack_compiler() {
    local root="$DEV/debs/cc" names libc=() others=() name tool real
    rm -rf "$root"
    apt_own_update
    names=$(closure "${COMPILER_PACKAGES[@]}")
    for name in $names; do
        case "$name" in
        libc6) libc+=("$name") ;;
        # Only what they ship for running scripts at installation; the compiler does not need it.
        debconf* | cdebconf* | perl* | dpkg | tar | install-info) ;;
        *) others+=("$name") ;;
        esac
    done
    unpack "$root" "${others[@]}"
    gather_libraries "$root"
    # The C library is linked against but never loaded from here: a libc beside its own loader crashes programs.
    unpack "$root" "${libc[@]}"
    # Newer releases have /lib inside /usr, older ones apart; the linker's scripts name both.
    if [ ! -e "$root/lib" ]; then ln -s usr/lib "$root/lib"; fi
    if [ ! -e "$root/lib64" ] && [ -e "$root/usr/lib64" ]; then ln -s usr/lib64 "$root/lib64"; fi
    for tool in as ld ar ranlib nm objcopy strip; do
        real=$(readlink -f "$root/usr/bin/$tool")
        wrapper "$root/wrappers/$tool" "$real" "$root/shared"
    done
    real=$(readlink -f "$root/usr/bin/gcc")
    for tool in cc gcc; do
        wrapper "$root/wrappers/$tool" "$real" "$root/shared" --sysroot="$root" -B"$root/wrappers"
    done
    wrapper "$root/wrappers/pkg-config" "$(readlink -f "$root/usr/bin/pkg-config")" "$root/shared"
    touch "$root/complete"
}

use_unpacked_compiler() {
    local root="$DEV/debs/cc" dirs
    export PATH="$root/wrappers:$PATH"
    dirs=$(echo "$root"/usr/lib/*-linux-gnu*/pkgconfig | tr ' ' ':')
    export PKG_CONFIG_LIBDIR="$dirs:$root/usr/share/pkgconfig" PKG_CONFIG_SYSROOT_DIR="$root"
    # What is built with these headers must find the same OpenSSL when it runs.
    export LD_LIBRARY_PATH="$root/shared${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
}
