# shellcheck shell=bash
# Part of ./run: a private Postgres for development and tests. Never the machine's own: only its programs are used.
#
# It is in .dev/pg, listens on 127.0.0.1 only, on a free port that it remembers, has no socket, and requires a password
# of every user (SCRAM). The passwords are random and in files beside it with mode 0600. Postgres refuses to run as
# root, so for root it runs as another user; if that user cannot reach the project's directory, the cluster is in
# /var/tmp instead.

PG_OLDEST=15
PG_BIN=
PG_PORT=
PG_HOME=
PG_USER=

need_postgres() {
    pg_choose_home
    pg_find_programs
    pg_choose_user
    pg_check_owner
    [ -e "$PG_HOME/complete" ] || pg_create
    if ! pg_running; then
        pg_start
    fi
    PG_PORT=$(cat "$PG_HOME/port")
    pg_roles
    pg_export
}

pg_export() {
    export SIDLE_DEV_PG_HOST=127.0.0.1
    export SIDLE_DEV_PG_PORT="$PG_PORT"
    # The server programs, for tests that kill clusters of their own, and the user that root must run those as.
    export SIDLE_DEV_PG_BIN="$PG_BIN"
    export SIDLE_DEV_PG_RUN_AS="$PG_USER"
    SIDLE_DEV_PG_SUPER_URL=$(pg_url super postgres)
    SIDLE_DEV_PG_OWNER_URL=$(pg_url owner sidle_dev)
    SIDLE_DEV_PG_APP_URL=$(pg_url app sidle_dev)
    export SIDLE_DEV_PG_SUPER_URL SIDLE_DEV_PG_OWNER_URL SIDLE_DEV_PG_APP_URL
}

# The three that can connect: super, owner (owns the databases), app (owns nothing, as in production).
pg_role() {
    case "$1" in
    super) echo postgres ;;
    *) echo "sidle_$1" ;;
    esac
}

# pg_url super|owner|app DATABASE
pg_url() {
    printf 'postgres://%s:%s@127.0.0.1:%s/%s\n' "$(pg_role "$1")" "$(cat "$PG_HOME/$1.pass")" "$PG_PORT" "$2"
}

# pg_psql super|owner|app DATABASE [ARGUMENT...]: the password is passed by the environment, which other users cannot
# read.
pg_psql() {
    local who=$1 database=$2
    shift 2
    PGPASSWORD=$(cat "$PG_HOME/$who.pass") "$PG_BIN/psql" -X -q -w -v ON_ERROR_STOP=1 \
        -h 127.0.0.1 -p "$PG_PORT" -U "$(pg_role "$who")" -d "$database" "$@"
}

# pg_fresh_database NAME: an empty database of the owner's, whatever was there before.
pg_fresh_database() {
    logged "database-$1" pg_psql super postgres \
        -c "DROP DATABASE IF EXISTS $1 WITH (FORCE)" \
        -c "CREATE DATABASE $1 OWNER sidle_owner" \
        -c "GRANT CONNECT ON DATABASE $1 TO sidle_app"
}

# --- where, which programs, and as whom -------------------------------------------------------------------------

pg_choose_home() {
    local elsewhere
    PG_HOME="$DEV/pg"
    am_root || return 0
    # The user that Postgres will run as for root is an ordinary one; so is `nobody`, which is enough for the check.
    ! setpriv --reuid=65534 --regid=65534 --clear-groups test -x "$DEV" || return 0
    elsewhere="/var/tmp/sidle-$(printf '%s' "$ROOT" | sha256sum | cut -c1-12)"
    if ! mkdir -m 0755 "$elsewhere" 2>/dev/null; then
        # Every user may write to /var/tmp: what is there already must be ours, and really be a directory.
        [ "$(stat -c '%u %F' "$elsewhere")" = '0 directory' ] ||
            die "$elsewhere is there already, and is not root's directory." "Remove it and repeat the command."
    fi
    PG_HOME="$elsewhere/pg"
    [ -e "$PG_HOME" ] || say "postgres: other users cannot enter $ROOT, so the cluster lies in $PG_HOME"
}

pg_find_programs() {
    local wanted=
    [ ! -r "$PG_HOME/version" ] || wanted=$(cat "$PG_HOME/version")
    PG_BIN=$(pg_best_programs "$wanted")
    if [ -z "$PG_BIN" ]; then
        pg_get_programs
        PG_BIN=$(pg_best_programs "$wanted")
    fi
    [ -n "$PG_BIN" ] || [ -z "$wanted" ] ||
        die "the programs of PostgreSQL $wanted, which made $PG_HOME, are gone." \
            "Remove that directory (it holds nothing but development data) and repeat the command."
    [ -n "$PG_BIN" ] || die "no PostgreSQL $PG_OLDEST or newer was found, and getting it did not help." \
        "Install one (apt-get install postgresql) and repeat the command."
    [ -e /usr/share/zoneinfo/UTC ] || die "/usr/share/zoneinfo is missing; Postgres needs it." \
        "Ask an administrator for it (apt-get install tzdata) and repeat the command."
}

# pg_best_programs VERSION: the directory of the server programs of that major version, or of the newest.
pg_best_programs() {
    local wanted=$1 dir major best='' best_major=0
    for dir in "$DEV"/debs/pg/wrappers /usr/lib/postgresql/*/bin \
        "$(pg_config --bindir 2>/dev/null || true)" "$(dirname "$(command -v initdb 2>/dev/null || true)")"; do
        if [ ! -x "$dir/initdb" ] || [ ! -x "$dir/postgres" ] || [ ! -x "$dir/psql" ]; then continue; fi
        major=$("$dir/postgres" --version 2>/dev/null | grep -oE '[0-9]+' | head -n 1) || continue
        [ -z "$wanted" ] || [ "$major" = "$wanted" ] || continue
        if [ "$major" -ge "$PG_OLDEST" ] && [ "$major" -gt "$best_major" ]; then
            best=$dir best_major=$major
        fi
    done
    printf '%s' "$best"
}

pg_get_programs() {
    local package
    need_debian "PostgreSQL $PG_OLDEST or newer"
    am_root || apt_own_update
    if am_root; then
        [ -n "$APT_UPDATED" ] || logged apt-update apt-get update -q
        APT_UPDATED=yes
        package=$(apt-cache depends postgresql | pg_newest_package)
        pg_install_programs "$package"
    else
        package=$(apt_own apt-cache depends postgresql | pg_newest_package)
        pg_unpack_programs "$package"
    fi
}

pg_newest_package() {
    local name
    name=$(grep -oE 'postgresql-[0-9]+$' | sort -V | tail -n 1) || true
    if [ -z "$name" ] || [ "${name#postgresql-}" -lt "$PG_OLDEST" ]; then
        die "this system's packages have no PostgreSQL $PG_OLDEST or newer (${name:-none})." \
            "Install one from https://www.postgresql.org/download/ and repeat the command."
    fi
    echo "$name"
}

# The Debian package creates and starts a cluster of the machine's own unless this file tells it not to. Afterwards the
# file is as it was before, or as the package provides it, even if the installation fails.
CREATECLUSTER=/etc/postgresql-common/createcluster.conf
pg_install_programs() {
    say "postgres: installing $1 with apt-get (its programs only, no cluster of the machine's own)"
    mkdir -p "$(dirname "$CREATECLUSTER")"
    [ ! -e "$CREATECLUSTER" ] || cp -p "$CREATECLUSTER" "$CREATECLUSTER.before-sidle"
    # shellcheck disable=SC2034 # used by common.sh
    UNDO=pg_restore_createcluster
    echo 'create_main_cluster = false' >"$CREATECLUSTER"
    apt_install "$1"
    UNDO=
    pg_restore_createcluster
}

pg_restore_createcluster() {
    rm -f "$CREATECLUSTER"
    if [ -e "$CREATECLUSTER.before-sidle" ]; then
        mv "$CREATECLUSTER.before-sidle" "$CREATECLUSTER"
    elif [ -e /usr/share/postgresql-common/createcluster.conf ]; then
        cp /usr/share/postgresql-common/createcluster.conf "$CREATECLUSTER"
    fi
}

pg_unpack_programs() {
    local root="$DEV/debs/pg" real
    say "postgres: unpacking $1 under .dev/debs (not root, so nothing is installed)"
    rm -rf "$root"
    unpack_missing "$root" "$1"
    for real in "$root/usr/lib/postgresql/${1#postgresql-}/bin"/*; do
        wrapper "$root/wrappers/$(basename "$real")" "$real" "$root/shared"
    done
}

# PG_USER is empty unless Postgres must run as another user than the caller.
pg_choose_user() {
    PG_USER=
    am_root || return 0
    if [ -d "$PG_HOME/data" ]; then
        PG_USER=$(stat -c %U "$PG_HOME/data")
    elif id postgres >/dev/null 2>&1; then
        PG_USER=postgres
    else
        PG_USER=sidle-postgres
        if ! id "$PG_USER" >/dev/null 2>&1; then
            say "postgres: it refuses to run as root; adding the system user $PG_USER for it"
            logged useradd useradd --system --user-group --no-create-home --shell /usr/sbin/nologin "$PG_USER"
        fi
    fi
}

pg_check_owner() {
    local made
    am_root && return 0
    for made in "$PG_HOME" "$PG_HOME/data"; do
        if [ ! -e "$made" ] || [ -O "$made" ]; then continue; fi
        die "$made belongs to another user ($(stat -c %U "$made"))." \
            "Run ./run as the user who did so first, or have that user run ./run pg stop and remove $DEV."
    done
}

# As the user that Postgres runs as, from a directory which that user can enter, without the lock held by ./run.
as_pg() {
    if [ -n "$PG_USER" ]; then
        env -C "$PG_HOME" setpriv --reuid="$PG_USER" --regid="$(id -g "$PG_USER")" --init-groups -- "$@" 9>&-
    else
        env -C "$PG_HOME" "$@" 9>&-
    fi
}

# --- making, starting and stopping ------------------------------------------------------------------------------

pg_create() {
    local role version
    version=$("$PG_BIN/postgres" --version | grep -oE '[0-9]+' | head -n 1)
    say "postgres: making a private cluster of PostgreSQL $version in $PG_HOME${PG_USER:+, run by user $PG_USER}"
    rm -rf "$PG_HOME"
    mkdir -p "$PG_HOME"
    # Other users may pass through but not list it; data and log belong to the user that Postgres runs as.
    chmod 0711 "$PG_HOME"
    for role in super owner app; do
        (umask 077 && od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"$PG_HOME/$role.pass")
    done
    install -m 0700 -d "$PG_HOME/data" "$PG_HOME/log"
    install -m 0600 "$PG_HOME/super.pass" "$PG_HOME/initdb.pass"
    [ -z "$PG_USER" ] || chown "$PG_USER" "$PG_HOME/data" "$PG_HOME/log" "$PG_HOME/initdb.pass"
    logged initdb as_pg "$PG_BIN/initdb" -D "$PG_HOME/data" -U postgres --pwfile="$PG_HOME/initdb.pass" \
        --auth=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8
    rm -f "$PG_HOME/initdb.pass"
    echo "host all all 127.0.0.1/32 scram-sha-256" | as_pg tee "$PG_HOME/data/pg_hba.conf" >/dev/null
    echo "include 'sidle.conf'" | as_pg tee -a "$PG_HOME/data/postgresql.conf" >/dev/null
    echo "$version" >"$PG_HOME/version"
    touch "$PG_HOME/complete"
}

pg_settings() {
    cat <<CONF
# Written again by ./run at each start.
listen_addresses = '127.0.0.1'
port = $PG_PORT
unix_socket_directories = ''
password_encryption = 'scram-sha-256'
max_connections = 200
shared_buffers = 256MB
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
CONF
}

pg_start() {
    local try
    pg_clear_stale_pid
    for try in 1 2 3; do
        pg_choose_port
        pg_settings | as_pg tee "$PG_HOME/data/sidle.conf" >/dev/null
        say "postgres: starting the private cluster on 127.0.0.1:$PG_PORT"
        # -W and -t: initialisation after a crash may take a while, but never forever.
        if as_pg "$PG_BIN/pg_ctl" -D "$PG_HOME/data" -l "$PG_HOME/log/postgres.log" -w -t 60 -s start \
            >"$DEV/log/pg_ctl.log" 2>&1; then
            rm -f "$PG_HOME/roles"
            return 0
        fi
        # Another program may have taken the port since it was checked.
        say "postgres: that did not work (try $try of 3)"
        rm -f "$PG_HOME/port"
    done
    tail -n 20 "$PG_HOME/log/postgres.log" >&2 || true
    die "the private Postgres does not start." "Its log is $PG_HOME/log/postgres.log, the last lines are above."
}

# The port of last time while it is free, else another one, below the range that outgoing connections use.
pg_choose_port() {
    PG_PORT=
    [ ! -r "$PG_HOME/port" ] || PG_PORT=$(cat "$PG_HOME/port")
    while [ -z "$PG_PORT" ] || (exec 3<>"/dev/tcp/127.0.0.1/$PG_PORT") 2>/dev/null; do
        PG_PORT=$((20000 + $(od -An -N2 -tu2 /dev/urandom) % 12000))
    done
    rm -f "$PG_HOME/port"
    echo "$PG_PORT" >"$PG_HOME/port"
}

# A process is the cluster's if it works in its data directory, as every Postgres process does. The number in
# postmaster.pid alone proves nothing: after a reboot it may be any process.
pg_is_ours() {
    [ "$(readlink "/proc/$1/cwd" 2>/dev/null)" = "$(readlink -f "$PG_HOME/data")" ]
}

pg_running() {
    local pid
    pid=$(as_pg head -n 1 "$PG_HOME/data/postmaster.pid" 2>/dev/null) || return 1
    [ -n "$pid" ] && pg_is_ours "$pid" && [ -r "$PG_HOME/port" ]
}

# After a kill -9 of the server its children may outlive it for a moment; a new server must not start beside them. A pid
# file that names another living process would keep Postgres from starting, and is removed.
pg_clear_stale_pid() {
    local pid process waited=0 alive=yes
    pid=$(as_pg head -n 1 "$PG_HOME/data/postmaster.pid" 2>/dev/null) || return 0
    while [ -n "$alive" ]; do
        alive=
        for process in /proc/[0-9]*; do
            ! pg_is_ours "${process#/proc/}" || alive=yes
        done
        [ -n "$alive" ] || break
        [ "$waited" -lt 100 ] || die "processes of a dead Postgres server still work in $PG_HOME/data." \
            "Look at them (ps aux | grep postgres), end them, and repeat the command."
        waited=$((waited + 1))
        sleep 0.1
    done
    if [ -n "$pid" ] && [ -d "/proc/$pid" ]; then
        as_pg rm -f "$PG_HOME/data/postmaster.pid"
    fi
}

pg_stop() {
    pg_choose_home
    if [ ! -e "$PG_HOME/complete" ]; then
        say "postgres: there is no private cluster"
        return
    fi
    pg_find_programs
    pg_choose_user
    pg_check_owner
    if pg_running; then
        logged pg-stop as_pg "$PG_BIN/pg_ctl" -D "$PG_HOME/data" -m fast -w -t 60 -s stop
        say "postgres: stopped"
    else
        say "postgres: it was not running"
    fi
}

# Once per start of the server. The owner may create databases and roles, as production's does, and is no superuser; the
# application role owns nothing and is bound by row-level security.
pg_roles() {
    [ ! -e "$PG_HOME/roles" ] || return 0
    {
        printf '\\set owner_pass %s\n\\set app_pass %s\n' "$(cat "$PG_HOME/owner.pass")" "$(cat "$PG_HOME/app.pass")"
        cat <<'SQL'
SELECT format('CREATE ROLE %I', wanted) FROM unnest(ARRAY['sidle_owner', 'sidle_app']) AS wanted
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) \gexec
ALTER ROLE sidle_owner LOGIN NOSUPERUSER CREATEDB CREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'owner_pass';
ALTER ROLE sidle_app LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'app_pass';
SELECT 'CREATE DATABASE sidle_dev OWNER sidle_owner'
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'sidle_dev') \gexec
GRANT CONNECT ON DATABASE sidle_dev TO sidle_app;
SQL
    } | logged roles pg_psql super postgres -f -
    touch "$PG_HOME/roles"
}

# pg_durable on|off: whether commits wait for the disk. Off for tests: creating and dropping a database for each of them
# would spend most of their time on it, and what they kill are processes, whose writes the kernel keeps; only a machine
# that loses power could lose them. On for the demonstration and the benchmarks, as in production.
pg_durable() {
    PGOPTIONS=--client-min-messages=warning pg_psql super postgres -q \
        -c "ALTER SYSTEM SET fsync = $1" -c "DO \$\$ BEGIN PERFORM pg_reload_conf(); END \$\$"
}
