# shellcheck shell=bash
# Part of ./run: PgBouncer, which tests put in front of Postgres. Always unpacked, never installed: the package would
# start a pooler of the machine's own. It is beside the private cluster, where the user can enter whom root must run it
# as.

need_pgbouncer() {
    local root="$PG_HOME/pgbouncer" name wanted=(pgbouncer)
    SIDLE_DEV_PGBOUNCER="$root/wrappers/pgbouncer"
    if ! [ -x "$SIDLE_DEV_PGBOUNCER" ] || ! "$SIDLE_DEV_PGBOUNCER" --version >/dev/null 2>&1; then
        need_debian "PgBouncer"
        say "pgbouncer: unpacking it in $root"
        rm -rf "$root"
        # The wrapper is written last, so that an existing one means a complete unpacking.
        apt_own_update
        for name in $(closure pgbouncer); do
            case "$name" in
            # Never the C library: it must be the one that the machine's own programs run with.
            libc6 | libc-bin | libc6-* | libperl* | lib*-perl | libelogind* | libllvm*) ;;
            lib*) is_installed "$name" || wanted+=("$name") ;;
            esac
        done
        unpack "$root" "${wanted[@]}"
        gather_libraries "$root"
        wrapper "$SIDLE_DEV_PGBOUNCER" "$root/usr/sbin/pgbouncer" "$root/shared"
    fi
    export SIDLE_DEV_PGBOUNCER
}
