# shellcheck shell=bash
# Part of ./run: dev Kanidm, the real engine that tests and demonstration run against. A workspace of its own.

KANIDM_MANIFEST="$ROOT/dev/kanidm/Cargo.toml"
KANIDM_TARGET="$ROOT/dev/kanidm/target"

need_dev_kanidm() {
    export SIDLE_DEV_KANIDM_BIN="$KANIDM_TARGET/debug/dev-kanidm"
    [ -x "$SIDLE_DEV_KANIDM_BIN" ] || say "dev kanidm: building it; the first time takes about 4 minutes on 2 cores"
    build_quietly "dev Kanidm" dev-kanidm \
        cargo build --locked --manifest-path "$KANIDM_MANIFEST" --target-dir "$KANIDM_TARGET" --bin dev-kanidm
}
