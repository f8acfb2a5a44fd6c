# shellcheck shell=bash
# Part of ./run: cargo, new enough, with the format and lint tools where they are needed.

# The oldest Rust that builds Sidle, as Cargo.toml's rust-version says.
RUST_WANTED=$(sed -n 's/^rust-version *= *"\([0-9.]*\)".*/\1/p' "$ROOT/Cargo.toml" 2>/dev/null | head -n 1) || true
RUST_WANTED=${RUST_WANTED:-1.95}

need_rust() {
    local cargo_home=${CARGO_HOME:-${HOME:-/root}/.cargo} found
    if ! have cargo && [ -x "$cargo_home/bin/cargo" ]; then
        export PATH="$cargo_home/bin:$PATH"
    fi
    if ! have cargo; then
        install_rust
        export PATH="$cargo_home/bin:$PATH"
    fi
    found=$(rustc --version 2>/dev/null | awk '{print $2}') || found=
    [ -n "$found" ] || die "there is a cargo ($(command -v cargo)) but no working rustc beside it." \
        "With rustup: rustup default stable. Otherwise remove it and repeat the command: ./run then installs Rust."
    # sort -V puts the older version first.
    [ "$(printf '%s\n%s\n' "$RUST_WANTED" "${found%%-*}" | sort -V | head -n 1)" = "$RUST_WANTED" ] ||
        die "Rust $found is too old: Sidle needs $RUST_WANTED or newer." \
            "With rustup: rustup update stable. With the distribution's package: remove it (apt-get remove cargo rustc)" \
            "and repeat the command; ./run then installs Rust through rustup."
}

install_rust() {
    need_curl
    say "rust: installing it through rustup (https://rustup.rs) into ${CARGO_HOME:-~/.cargo}"
    logged rustup-fetch curl --proto '=https' --tlsv1.2 -sSf -o "$DEV/rustup-init.sh" https://sh.rustup.rs
    logged rustup sh "$DEV/rustup-init.sh" -y --no-modify-path --profile minimal --default-toolchain stable \
        --component rustfmt --component clippy
}

need_curl() {
    local root="$DEV/debs/curl"
    if ! have curl; then
        need_debian "curl"
        if am_root; then
            say "rust: installing curl with apt-get"
            apt_install curl ca-certificates
            return
        fi
        if [ ! -e "$root/complete" ]; then
            say "rust: unpacking curl under .dev/debs"
            rm -rf "$root"
            apt_own_update
            unpack_missing "$root" curl
            wrapper "$root/wrappers/curl" "$root/usr/bin/curl" "$root/shared"
            touch "$root/complete"
        fi
        export PATH="$root/wrappers:$PATH"
    fi
    [ -e /etc/ssl/certs/ca-certificates.crt ] || [ -n "${SSL_CERT_FILE:-}" ] ||
        die "this machine knows no certificate authorities, so nothing can be fetched over HTTPS." \
            "Ask an administrator for them (apt-get install ca-certificates) and repeat the command."
}

need_rust_tools() {
    cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 && return 0
    have rustup || die "cargo fmt or cargo clippy is missing." \
        "Install them by the means that Rust came by (Debian: apt-get install rustfmt rust-clippy)."
    say "rust: adding rustfmt and clippy"
    logged rustup-component rustup component add rustfmt clippy
}
