"""A mail server for tests: takes every message, writes it to a directory, and can be told to fail.

It talks over standard input and output, one JSON object a line: first {"event": "ready", "port": ...}, then an event for
each message that it took ({"event": "message", "file": ...}) and an answer to each command:

    {"fault": KIND, "count": N}    the next N messages fail (see FAULTS)
    {"fault": null}                none does any more; what is held is answered

It ends with its standard input. Needs aiosmtpd.
"""

import argparse
import asyncio
import json
import os
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

FAULTS = {
    "sender": "refuses the sender (550)",
    "recipient": "refuses the recipient (550)",
    "refuse": "refuses the message (554)",
    "defer": "puts the message off (451)",
    "drop_before": "closes the connection instead of taking the message",
    "drop_after": "takes the message and closes the connection without saying so",
    "hold": "takes the message and says so only when the fault ends",
}


def say(**event):
    print(json.dumps(event), flush=True)


class Handler:
    def __init__(self, directory):
        self.directory = directory
        self.taken = 0
        self.fault = None
        self.count = 0
        self.healed = asyncio.Event()

    def fails(self, *kinds):
        """Whether this message is to fail in one of these ways; counts it."""
        if self.fault in kinds and self.count > 0:
            self.count -= 1
            return self.fault
        return None

    async def handle_MAIL(self, server, session, envelope, address, options):
        if self.fails("sender"):
            return "550 not from you"
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, options):
        if self.fails("recipient"):
            return "550 no such mailbox"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        fault = self.fails("refuse", "defer", "drop_before", "drop_after", "hold")
        if fault == "refuse":
            say(event="failed", fault=fault)
            return "554 not that"
        if fault == "defer":
            say(event="failed", fault=fault)
            return "451 later"
        if fault == "drop_before":
            say(event="failed", fault=fault)
            server.transport.abort()
            return "451 gone"
        self.taken += 1
        file = os.path.join(self.directory, "%06d.json" % self.taken)
        message = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "data": envelope.original_content.decode("utf-8", "replace"),
            "tls": session.ssl is not None or server.transport.get_extra_info("cipher") is not None,
            "login": getattr(session.auth_data, "login", b"").decode() if session.auth_data else None,
        }
        with open(file + ".new", "w", encoding="utf-8") as out:
            json.dump(message, out)
        os.rename(file + ".new", file)
        say(event="message", file=file)
        if fault == "drop_after":
            server.transport.abort()
            return "250 gone"
        if fault == "hold":
            await self.healed.wait()
        return "250 taken"


def authenticator(expected):
    def check(server, session, envelope, mechanism, data):
        given = data if isinstance(data, LoginPassword) else None
        right = given is not None and given.login + b":" + given.password == expected.encode()
        return AuthResult(success=right, handled=False, auth_data=given)

    return check


async def commands(handler):
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        command = json.loads(line)
        fault = command["fault"]
        if fault is not None and fault not in FAULTS:
            sys.exit("no such fault: %s; there are %s" % (fault, ", ".join(FAULTS)))
        handler.fault = fault
        handler.count = command.get("count", 1)
        handler.healed.set()
        handler.healed = asyncio.Event()
        say(event="told")


async def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--directory", required=True)
    arguments.add_argument("--port", type=int, default=0)
    arguments.add_argument("--tls", choices=["starttls", "tls", "none"], default="none")
    arguments.add_argument("--certificate")
    arguments.add_argument("--key")
    arguments.add_argument("--login", help="NAME:PASSWORD that must be shown")
    options = arguments.parse_args()

    context = None
    if options.tls != "none":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.certificate, options.key)
    handler = Handler(options.directory)

    def factory():
        return SMTP(
            handler,
            hostname="localhost",
            tls_context=context if options.tls == "starttls" else None,
            require_starttls=options.tls == "starttls",
            auth_required=options.login is not None,
            auth_require_tls=options.tls == "starttls",
            authenticator=authenticator(options.login) if options.login else None,
            loop=asyncio.get_running_loop(),
        )

    implicit = context if options.tls == "tls" else None
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", options.port, ssl=implicit)
    say(event="ready", port=server.sockets[0].getsockname()[1])
    await commands(handler)


asyncio.run(main())
