# shellcheck shell=bash
# Part of ./run: the prepared queries in .sqlx, from which Sidle builds without a database.
#
# sqlx's query macros describe each query against DATABASE_URL and write what they learned into SQLX_OFFLINE_DIR when
# SQLX_OFFLINE is not true. So compiling the library once against a database with today's schema gives the whole set.
# Only the library holds checked queries: programs, tests and benchmarks must not use the macros.

# Today's schema in an empty database, as `sidle schema up` would create it.
queries_migrate() {
    local database=$1 file transaction
    pg_fresh_database "$database"
    for file in "$ROOT"/migrations/*.up.sql; do
        [ -e "$file" ] || die "there are no migrations in $ROOT/migrations."
        transaction=(--single-transaction)
        # The few steps that cannot run in a transaction say so in their first line.
        ! head -n 1 "$file" | grep -q '^-- no-transaction' || transaction=()
        PGOPTIONS=--client-min-messages=warning \
            logged "migrate-$(basename "$file" .up.sql)" pg_psql owner "$database" "${transaction[@]}" -f "$file"
    done
    # A function may refer to a later one; plpgsql_check reads them all when they exist.
    {
        echo "SET LOCAL check_function_bodies = off;"
        for file in "$ROOT"/migrations/functions/*/*.sql; do
            printf '\\i %s\n' "'${file//\'/\'\'}'"
        done
    } >"$DEV/log/functions.sql"
    PGOPTIONS=--client-min-messages=warning \
        logged migrate-functions pg_psql owner "$database" --single-transaction -f "$DEV/log/functions.sql"
}

# Describes all queries again into the given empty directory.
queries_describe() {
    local into=$1 code=0
    queries_migrate sidle_prepare
    plpgsql_check sidle_prepare
    # The macros run only when the library is compiled, and cargo does not know that they look at a database. So its
    # root file looks new to this one compilation; with its old time back, no other build is out of date afterwards.
    touch -r "$ROOT/src/lib.rs" "$DEV/lib.rs.time"
    touch "$ROOT/src/lib.rs"
    env SQLX_OFFLINE=false SQLX_OFFLINE_DIR="$into" DATABASE_URL="$(pg_url owner sidle_prepare)" \
        cargo check --locked --quiet --package sidle --lib || code=$?
    touch -r "$DEV/lib.rs.time" "$ROOT/src/lib.rs"
    [ "$code" -eq 0 ] || die "the queries could not be checked: the library does not compile against the schema." \
        "The messages are above; the schema is that of migrations/."
}

queries_fresh() {
    FRESH="$DEV/queries"
    rm -rf "$FRESH"
    mkdir -p "$FRESH"
    queries_describe "$FRESH"
}

queries_write() {
    queries_fresh
    if diff -rq "$ROOT/.sqlx" "$FRESH" >/dev/null 2>&1; then
        say "prepare: .sqlx is up to date"
        return
    fi
    rm -rf "$ROOT/.sqlx"
    cp -r "$FRESH" "$ROOT/.sqlx"
    say "prepare: wrote $(find "$ROOT/.sqlx" -name '*.json' | wc -l) queries to .sqlx; commit them with the change that needs them"
}

queries_check() {
    queries_fresh
    diff -rq "$ROOT/.sqlx" "$FRESH" >&2 && return 0
    die "the prepared queries in .sqlx are not those of the code and the schema." "Run ./run prepare and commit .sqlx."
}
