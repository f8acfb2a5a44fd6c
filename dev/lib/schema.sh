# shellcheck shell=bash
# Part of ./run: checks of the schema besides the compiler's. plpgsql_check reads the bodies of database functions;
# squawk reads versioned files that are to run on a database in use.

# --- plpgsql_check ------------------------------------------------------------------------------------------------

# The machine's own where its Postgres has it. Else unpacked, never installed, beside the private cluster, where the
# user can enter whom root must run Postgres as.
need_plpgsql_check() {
    local major root="$PG_HOME/plpgsql_check" package
    PLPGSQL_CHECK=
    [ -z "$(pg_psql super postgres -At -c "SELECT name FROM pg_available_extensions WHERE name = 'plpgsql_check'")" ] ||
        return 0
    major=$(cat "$PG_HOME/version")
    package="postgresql-$major-plpgsql-check"
    PLPGSQL_CHECK=$root/usr/lib/postgresql/$major/lib/plpgsql_check.so
    PLPGSQL_CHECK_SQL="$root/usr/share/postgresql/$major/extension"
    [ ! -e "$root/complete" ] || return 0
    need_debian "plpgsql_check (an extension of Postgres)"
    say "plpgsql_check: unpacking $package in $root"
    rm -rf "$root"
    apt_own_update
    unpack "$root" "$package"
    touch "$root/complete"
}

# Where it was unpacked, the statements of the extension's own file, with its library where it lies: CREATE EXTENSION
# would look for both in the directories of the machine's Postgres.
plpgsql_check_statements() {
    echo "CREATE SCHEMA plpgsql_check; SET search_path = plpgsql_check;"
    if [ -z "$PLPGSQL_CHECK" ]; then
        echo "CREATE EXTENSION plpgsql_check SCHEMA plpgsql_check;"
        return
    fi
    sed -e '/^\\/d' -e 's/@extschema@/plpgsql_check/g' -e "s#MODULE_PATHNAME#$PLPGSQL_CHECK#" \
        "$PLPGSQL_CHECK_SQL"/plpgsql_check--*.sql
}

# plpgsql_check DATABASE: fails when it reports anything about a function of ours. Trigger functions are checked for
# each table that they are used on, with the rows that the statement provides where a trigger names them.
plpgsql_check() {
    local database=$1 found
    need_plpgsql_check
    plpgsql_check_statements >"$DEV/log/plpgsql_check.sql"
    PGOPTIONS=--client-min-messages=warning \
        logged plpgsql-check pg_psql super "$database" --single-transaction -f "$DEV/log/plpgsql_check.sql"
    found=$(pg_psql super "$database" -At -F ': ' -f - <<'SQL'
SELECT p.oid::regprocedure, c.level, 'line ' || c.lineno, c.message, c.detail
FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang AND l.lanname = 'plpgsql'
LEFT JOIN LATERAL (
    SELECT tgrelid, max(max(tgoldtable)) OVER () AS before, max(max(tgnewtable)) OVER () AS after
    FROM pg_trigger WHERE tgfoid = p.oid AND NOT tgisinternal GROUP BY tgrelid
) t ON true
CROSS JOIN LATERAL plpgsql_check.plpgsql_check_function_tb(p.oid, coalesce(t.tgrelid, 0), oldtable => t.before,
    newtable => t.after, other_warnings => true, extra_warnings => true, security_warnings => true) c
WHERE p.pronamespace = 'public'::regnamespace ORDER BY 1, c.lineno;
SQL
    )
    [ -n "$found" ] || return 0
    printf '%s\n' "$found" >&2
    die "plpgsql_check has found the above in migrations/functions and migrations/*.up.sql." \
        "The lines are those of the function's body."
}

# --- squawk -------------------------------------------------------------------------------------------------------

SQUAWK_VERSION=2.70.0
SQUAWK="$DEV/squawk/squawk"

# A Python package that holds nothing but the program.
need_squawk() {
    local into="$DEV/squawk"
    [ "$("$SQUAWK" --version 2>/dev/null)" != "squawk $SQUAWK_VERSION" ] || return 0
    need_pip "squawk, which reads migrations,"
    say "squawk: getting version $SQUAWK_VERSION with pip into .dev/squawk"
    rm -rf "$into"
    mkdir -p "$into"
    logged squawk "${PIP[@]}" download --disable-pip-version-check --no-deps --only-binary :all: --dest "$into" \
        "squawk-cli==$SQUAWK_VERSION"
    "$PYTHON" -m zipfile -e "$into"/squawk_cli-*.whl "$into"
    mv "$into/squawk_cli-$SQUAWK_VERSION.data/scripts/squawk" "$SQUAWK"
    rm -rf "$into"/squawk_cli-*
    chmod 755 "$SQUAWK"
    [ "$("$SQUAWK" --version)" = "squawk $SQUAWK_VERSION" ] || die "squawk does not start." "See $DEV/log/squawk.log."
}

# What runs on an empty database cannot block any other statement, and is left out: the files up to the newest of the
# baseline. The runner sets the bounds on waiting itself, and one transaction for each file that does not say otherwise.
SQUAWK_BASELINE=0008
squawk_check() {
    local file name transaction
    for file in "$ROOT"/migrations/*.up.sql; do
        name=$(basename "$file")
        [[ ${name%%_*} > $SQUAWK_BASELINE ]] || continue
        transaction=(--assume-in-transaction)
        ! head -n 1 "$file" | grep -q '^-- no-transaction' || transaction=()
        "$SQUAWK" --pg-version "$PG_OLDEST" "${transaction[@]}" \
            --exclude require-lock-timeout,require-statement-timeout,prefer-bigint-over-int "$file" ||
            die "squawk has found the above in migrations/$name." \
                "Change it, or say why it may be so: -- squawk-ignore RULE in the line before."
    done
}
