# shellcheck shell=bash
# Part of ./run: buf, which lints the protos and is a client of gRPC. It comes as an npm package, pinned, into .dev/npm.

BUF_VERSION=1.75.0
BUF="$DEV/npm/node_modules/.bin/buf"

need_buf() {
    need_node "buf, which lints the protos,"
    if [ "$("$BUF" --version 2>/dev/null)" = "$BUF_VERSION" ]; then
        return 0
    fi
    say "buf: installing version $BUF_VERSION from npm into .dev/npm"
    mkdir -p "$DEV/npm"
    logged npm npm install --prefix "$DEV/npm" --no-save --no-audit --no-fund --loglevel=error \
        "@bufbuild/buf@$BUF_VERSION"
    "$BUF" --version >/dev/null || die "buf does not start." "See $DEV/log/npm.log."
}
