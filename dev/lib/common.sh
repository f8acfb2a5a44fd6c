# shellcheck shell=bash
# Part of ./run: messages, failing, running builds with their output in a log, and one ./run at a time.

say() {
    printf '%s\n' "$*" >&2
}

# die PROBLEM [WHAT TO DO NEXT]...
die() {
    printf './run: %s\n' "$1" >&2
    shift
    [ $# -eq 0 ] || printf '       %s\n' "$@" >&2
    trap - ERR
    exit 1
}

have() {
    command -v "$1" >/dev/null 2>&1
}

am_root() {
    [ "$(id -u)" -eq 0 ]
}

# Sets up what all commands share. Only one ./run prepares things at a time; the lock is given back before
# the long part of a command begins, so that a second ./run need not wait for the first one's tests.
begin() {
    mkdir -p "$DEV/log" || die "cannot write to $DEV." \
        "It was probably made by another user: run ./run as that user, or remove the directory."
    # shellcheck disable=SC2034 # used by run
    TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
    export SQLX_OFFLINE=true
    explain_failures
    trap tidy_up EXIT
    take_lock
}

# A command's temporary changes are undone by the function that UNDO names, however the command ends.
UNDO=
tidy_up() {
    stop_ticker
    drop_dev_kanidm
    [ -z "$UNDO" ] || "$UNDO"
}

explain_failures() {
    trap 'unexpected $? "${BASH_SOURCE[0]}" $LINENO' ERR
}

take_lock() {
    have flock || return 0
    : >>"$DEV/lock" || die "cannot write to $DEV/lock." \
        "It was probably made by another user: run ./run as that user, or remove $DEV."
    exec 9>>"$DEV/lock"
    flock -n 9 && return 0
    say "waiting for another ./run in this directory to finish its preparations"
    flock 9
}

release_lock() {
    exec 9>&-
}

unexpected() {
    local code=$1 file=$2 line=$3
    # A subshell only passes the failure on; the message is for the outermost shell to give, once.
    [ "$BASH_SUBSHELL" -eq 0 ] || exit "$code"
    printf './run: stopped with exit code %s at %s line %s. Logs are in %s.\n' \
        "$code" "${file#"$ROOT"/}" "$line" "$DEV/log" >&2
    exit "$code"
}

# step NAME COMMAND...: runs a command with its output shown, and prints how long it took. With SIDLE_TIMES set to a
# file's name, the times are written there as well.
step() {
    local name=$1 started=$SECONDS code
    shift
    say "== $name"
    # Not "COMMAND || code=$?": bash would go on after errors inside a function that is called like that.
    trap - ERR
    set +e
    (
        set -e
        "$@"
    )
    code=$?
    set -e
    explain_failures
    local took=$((SECONDS - started)) verdict=ok
    [ "$code" -eq 0 ] || verdict=FAILED
    say "== $name: $verdict, $took s"
    [ -z "${SIDLE_TIMES:-}" ] || printf '%6s s  %-6s  %s\n' "$took" "$verdict" "$name" >>"$SIDLE_TIMES"
    [ "$code" -eq 0 ] || exit "$code"
}

# logged NAME COMMAND...: output goes to .dev/log/NAME.log and is only shown, in part, when the command fails.
logged() {
    local log="$DEV/log/$1.log" code=0
    shift
    # Created again, since root may have run this before in another user's directory.
    rm -f "$log"
    "$@" >"$log" 2>&1 9>&- || code=$?
    [ "$code" -ne 0 ] || return 0
    stop_ticker
    say "The last lines of $log:"
    tail -n 40 "$log" >&2
    die "this command failed: $*" "Its whole output is in $log."
}

# build_quietly WHAT LOG COMMAND...: a build that may take minutes, with progress shown and without its output.
build_quietly() {
    local what=$1 log=$2 started=$SECONDS
    shift 2
    start_ticker "$what" "$log"
    logged "$log" "$@"
    stop_ticker
    [ $((SECONDS - started)) -lt 5 ] || say "built $what in $((SECONDS - started)) s"
}

TICKER=
start_ticker() {
    local what=$1 log="$DEV/log/$2.log" period=30
    [ ! -t 2 ] || period=1
    [ "${3:-}" = keep ] || rm -f "$log"
    (
        exec 9>&-
        trap - ERR EXIT
        local waited=0 count
        while sleep "$period"; do
            waited=$((waited + period))
            count=$(grep -c '^ *Compiling' "$log" 2>/dev/null || true)
            if [ -t 2 ]; then
                printf '\rbuilding %s: %s s, %s crates ' "$what" "$waited" "$count" >&2
            else
                printf 'building %s: %s s, %s crates\n' "$what" "$waited" "$count" >&2
            fi
        done
    ) &
    TICKER=$!
}

stop_ticker() {
    [ -n "$TICKER" ] || return 0
    kill "$TICKER" 2>/dev/null || true
    wait "$TICKER" 2>/dev/null || true
    TICKER=
    [ ! -t 2 ] || printf '\r\033[K' >&2
}
