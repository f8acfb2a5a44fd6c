# shellcheck shell=bash
# Part of ./run: dev Kanidm, the real engine that tests and demonstration run against. A workspace of its own.

KANIDM_MANIFEST="$ROOT/dev/kanidm/Cargo.toml"
KANIDM_TARGET="$ROOT/dev/kanidm/target"

KANIDM_BUILD=

# Begins to build it, in parallel with the next build: either build ends with crates that keep one core busy for
# minutes.
begin_dev_kanidm() {
    export SIDLE_DEV_KANIDM_BIN="$KANIDM_TARGET/debug/dev-kanidm"
    [ -x "$SIDLE_DEV_KANIDM_BIN" ] || say "dev kanidm: building it beside Sidle; the first time, both took 4 to 15 minutes on 2 idle cores"
    rm -f "$DEV/log/dev-kanidm.log"
    (
        exec 9>&-
        trap - ERR EXIT
        exec cargo build --locked --manifest-path "$KANIDM_MANIFEST" --target-dir "$KANIDM_TARGET" --bin dev-kanidm
    ) >"$DEV/log/dev-kanidm.log" 2>&1 &
    KANIDM_BUILD=$!
}

# Waits for the build.
finish_dev_kanidm() {
    local started=$SECONDS code=0
    start_ticker "dev Kanidm" dev-kanidm keep
    wait "$KANIDM_BUILD" || code=$?
    stop_ticker
    KANIDM_BUILD=
    [ $((SECONDS - started)) -lt 5 ] || say "built dev Kanidm, $((SECONDS - started)) s after the rest"
    [ "$code" -ne 0 ] || return 0
    say "The last lines of $DEV/log/dev-kanidm.log:"
    tail -n 40 "$DEV/log/dev-kanidm.log" >&2
    die "dev Kanidm could not be built." "The whole output is in $DEV/log/dev-kanidm.log."
}

# A build whose result is not needed any more.
drop_dev_kanidm() {
    [ -n "$KANIDM_BUILD" ] || return 0
    kill "$KANIDM_BUILD" 2>/dev/null || true
    wait "$KANIDM_BUILD" 2>/dev/null || true
}

need_dev_kanidm() {
    begin_dev_kanidm
    finish_dev_kanidm
}
