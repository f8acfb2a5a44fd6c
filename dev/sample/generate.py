#!/usr/bin/env python3
"""Writes legacy-users.csv, legacy-users.jsonl and expected.json: the user table of an imaginary old system.

Everything follows from SEED, so a second run writes the same bytes. README.md says what is in the files and why, and
what has to be installed to run this. The hashes come from four bcrypt implementations, none of them Sidle's, and each
is verified by a fifth before it is written.
"""

import csv
import json
import random
import re
import subprocess
import uuid
from collections import Counter
from pathlib import Path

import bcrypt

SEED = 20240229
HERE = Path(__file__).resolve().parent
CSV_FILE, JSONL_FILE = "legacy-users.csv", "legacy-users.jsonl"
COLUMNS = ["id", "email", "username", "full_name", "password_hash", "tenant", "role", "created_at", "is_active"]

# Ordinary users per file and tenant; the special ones come on top.
ORDINARY = {CSV_FILE: {"harbour": 170, "juniper": 90}, JSONL_FILE: {"juniper": 90, "meridian": 150}}
TENANTS = ["harbour", "juniper", "meridian"]

FIRST = """Ada Agnes Albert Amina Anton Beatrix Benno Carla Cedric Clara Daria David Edith Elias Emil Esther Fanny Felix
Frida Georg Greta Hanna Hugo Ida Ilse Jakob Jonas Julia Karim Klara Leo Lena Lydia Marta Mats Mila Nadia Nils Olga Oscar
Paula Pavel Rosa Samir Selma Silas Tara Theo Ursula Viktor Wanda Yara""".split()
LAST = """Abel Arden Barlow Becker Bell Brandt Carver Cole Dahl Dorn Eastman Falk Fenn Garland Haas Hale Hollis Ivers Jansen
Keller Kemp Lang Lark Lund Marsh Mercer Moss Nash Nolan Oakes Odell Park Penn Quill Rask Reed Rivers Sand Sloan Stone Thorn
Tiller Ulrich Vance Vogel Wells Winter Yates Young Zeller""".split()

# The names of the contract (ImportReason and ItemReason) without their prefixes.
REFUSED = ["BROKEN_HASH", "EMAIL_MISSING", "EMAIL_INVALID", "EMAIL_DUPLICATE", "EMAIL_TAKEN", "HASH_COST_TOO_HIGH",
           "UNKNOWN_TENANT"]

ALPHABET = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


class Row:
    """One row; `marks` are the classes of expected.json that it belongs to, `absent` the keys its JSON line lacks."""

    def __init__(self, file, tenant, email, username, full_name, **more):
        self.file, self.tenant, self.email, self.username, self.full_name = file, tenant, email, username, full_name
        self.role = more.get("role", "user")
        self.active = more.get("active", True)
        self.cost = more.get("cost")
        self.kind = more.get("kind")
        self.password = more.get("password", "legacy-" + (email or "nobody").split("@")[0])
        self.hash = more.get("hash")
        self.refused = more.get("refused")
        self.marks = more.get("marks", [])
        self.absent = more.get("absent", [])
        self.first = more.get("first", False)


def random_salt(rng):
    """22 characters of bcrypt's own base64 for 16 random bytes; the last one carries two bits only."""
    return "".join(rng.choice(ALPHABET) for _ in range(21)) + rng.choice(".Oeu")


def hash_in_batches(rows):
    """Fills in row.hash: each implementation is started once and gets all of its passwords, as JSON, on stdin."""
    php = r"""
        foreach (json_decode(stream_get_contents(STDIN)) as $j) $out[] = crypt($j[0], $j[1]);
        echo json_encode($out);"""
    node = r"""
        const b = require('bcryptjs');
        const jobs = JSON.parse(require('fs').readFileSync(0, 'utf8'));
        console.log(JSON.stringify(jobs.map(([p, s]) => b.hashSync(p, s))));"""
    perl = r"""
        use Crypt::Eksblowfish::Bcrypt 'bcrypt'; use JSON::PP; local $/;
        my $json = JSON::PP->new->utf8;
        print $json->encode([map { my $p = $_->[0]; utf8::encode($p); bcrypt($p, $_->[1]) } @{$json->decode(<STDIN>)}]);"""
    commands = {"php": ["php", "-r", php], "node": ["node", "-e", node], "perl": ["perl", "-e", perl]}

    for maker in ["python", "php", "node", "perl"]:
        mine = [row for row in rows if row.hash is None and row.kind == maker]
        jobs = [[row.password, row.setting] for row in mine]
        if maker == "python":
            hashes = [bcrypt.hashpw(p.encode(), s.encode()).decode() for p, s in jobs]
        else:
            done = subprocess.run(commands[maker], input=json.dumps(jobs).encode(), capture_output=True, check=True)
            hashes = json.loads(done.stdout)
        for row, made in zip(mine, hashes, strict=True):
            assert made.startswith(row.setting) and len(made) == 60, (maker, made)
            row.hash = made
    for row in rows:
        if row.kind in ("php", "node", "perl"):
            assert bcrypt.checkpw(row.password.encode(), row.hash.encode()), row.email
        elif row.kind == "python":
            checked = subprocess.run(["php", "-r", "exit(password_verify($argv[1], $argv[2]) ? 0 : 1);", "--",
                                      row.password, row.hash], check=False)
            assert checked.returncode == 0, row.email


PREFIX = {"python": "$2b$", "php": "$2y$", "node": "$2a$", "perl": "$2a$"}


def ordinary(rng):
    """Users as they should be: a username of small letters and a dot, an address, a hash."""
    names = [(first, last) for first in FIRST for last in LAST]
    rng.shuffle(names)
    for file, tenants in ORDINARY.items():
        for tenant, count in tenants.items():
            for number in range(count):
                first, last = names.pop()
                username = f"{first}.{last}".lower()
                role = "super_admin" if number == 0 else "admin" if number < 5 else "user"
                yield Row(file, tenant, f"{username}@{tenant}.example", username, f"{first} {last}", role=role)


def refused(some):
    """Rows that an import refuses, each for one reason only."""
    good = "$2b$04$" + "abcdefghijklmnopqrstuO" + "ABCDEFGHIJKLMNOPQRSTUVWXYZ01236"
    broken = {
        "cut-short": good[:59],
        "cut-in-half": good[:31],
        "too-long": good + "x",
        "wrong-alphabet": good[:40] + "!" + good[41:],
        "unknown-version": "$2z$" + good[4:],
        "no-cost": "$2b$xx$" + good[7:],
        "md5": "5f4dcc3b5aa765d61d8327deb882cf99",
        "argon2": "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$RdescudvJCsgt3ub+b4dWRWJTmaaJObG",
        "clear-text": "tulips-in-may",
    }
    for number, (kind, value) in enumerate(broken.items()):
        file, tenant = [(CSV_FILE, "harbour"), (JSONL_FILE, "meridian")][number % 2]
        yield Row(file, tenant, f"hash.{kind}@{tenant}.example", f"hash.{kind}", f"Hash {kind}", hash=value,
                  refused="BROKEN_HASH")
    for number in range(5):
        file, tenant = [(CSV_FILE, "juniper"), (JSONL_FILE, "meridian")][number % 2]
        yield Row(file, tenant, "", f"no.mail{number}", f"Mailless {number}", refused="EMAIL_MISSING",
                  absent=["email"] if number == 3 else [])
    for file, tenant, email in [(CSV_FILE, "harbour", "no-at-sign.harbour.example"),
                                (JSONL_FILE, "meridian", "two@@meridian.example"),
                                (JSONL_FILE, "juniper", "@juniper.example")]:
        yield Row(file, tenant, email, "bad." + re.sub(r"\W+", "", email)[:8], "Odd Address", refused="EMAIL_INVALID")
    costs = [(CSV_FILE, "harbour", "$2b$15$"), (CSV_FILE, "juniper", "$2y$16$"), (JSONL_FILE, "meridian", "$2a$20$"),
             (JSONL_FILE, "juniper", "$2b$31$")]
    for file, tenant, prefix in costs:
        cost = prefix[4:6]
        yield Row(file, tenant, f"cost.{cost}@{tenant}.example", f"cost.{cost}", f"Costly {cost}",
                  hash=prefix + good[7:], refused="HASH_COST_TOO_HIGH")
    for file, tenant in [(CSV_FILE, "atlantis"), (CSV_FILE, "harbor"), (JSONL_FILE, "atlantis"), (JSONL_FILE, "junipr")]:
        yield Row(file, tenant, f"lost.{len(file)}@{tenant}.example", f"lost.{tenant}{len(file)}", "Lost Soul",
                  refused="UNKNOWN_TENANT")
    # The same address as an ordinary row's in other letters. They have usernames and hashes of their own, so that
    # taking anything of them would show. `some` gives rows that come earlier in the import.
    for number, (file, tenant, first) in enumerate([
            (CSV_FILE, "harbour", some(CSV_FILE, "harbour")), (CSV_FILE, "juniper", some(CSV_FILE, "harbour")),
            (CSV_FILE, "juniper", some(CSV_FILE, "juniper")), (JSONL_FILE, "meridian", some(JSONL_FILE, "meridian"))]):
        email = first.email.upper() if number % 2 else first.email.title()
        yield Row(file, tenant, email, f"double{number}", "Second Copy", refused="EMAIL_DUPLICATE",
                  password=f"legacy-double{number}")
    for number, (tenant, first) in enumerate([("juniper", some(CSV_FILE, "juniper")),
                                              ("meridian", some(CSV_FILE, "harbour"))]):
        yield Row(JSONL_FILE, tenant, first.email.swapcase(), f"twice{number}", "Other Copy", refused="EMAIL_TAKEN",
                  password=f"legacy-twice{number}")


def derived(some):
    """Users whose username cannot be, or is not, their name in Kanidm. `marks` says why."""
    def special(file, tenant, mark, username, full_name, local=None):
        return Row(file, tenant, f"{local or username}@{tenant}.example", username, full_name, marks=[mark])

    # No username at all; the first local part of each file occurs in several tenants, so that these clash as well.
    for file, tenant, local in [
            (CSV_FILE, "harbour", "info"), (CSV_FILE, "juniper", "info"), (JSONL_FILE, "meridian", "info"),
            (CSV_FILE, "harbour", "office"), (JSONL_FILE, "juniper", "office"), (JSONL_FILE, "meridian", "office"),
            (CSV_FILE, "harbour", "front.desk"), (CSV_FILE, "juniper", "ops+oncall"), (JSONL_FILE, "meridian", "kitchen"),
            (JSONL_FILE, "meridian", "o'hara"), (JSONL_FILE, "juniper", "spa"), (CSV_FILE, "juniper", "night.audit")]:
        row = special(file, tenant, "email_only", "", local.replace(".", " ").title(), local)
        if local in ("info", "office"):
            row.marks.append("clashing")
        yield row
    for file, tenant, username, full_name, local in [
            (CSV_FILE, "harbour", "åsa.öberg", "Åsa Öberg", "asa.o"),
            (CSV_FILE, "juniper", "łukasz.nowak", "Łukasz Nowak", "lukasz"),
            (JSONL_FILE, "meridian", "李小龙", "李小龙", "xiaolong"),
            (JSONL_FILE, "juniper", "мария.иванова", "Мария Иванова", "maria.ivanova"),
            (JSONL_FILE, "meridian", "josé.núñez", "José Núñez", "jose"),
            (CSV_FILE, "harbour", "müller", "Jörg Müller", "joerg"),
            (JSONL_FILE, "meridian", "ελένη", "Ελένη Παππά", "eleni")]:
        yield special(file, tenant, "non_ascii", username, full_name, local)
    # Spelled with plain letters, these are the same as two of the above, or as each other.
    for file, tenant, username, full_name, local in [
            (JSONL_FILE, "meridian", "asa.oberg", "Asa Oberg", "asa.oberg"),
            (JSONL_FILE, "juniper", "jose.nunez", "Jose Nunez", "jose.nunez"),
            (CSV_FILE, "juniper", "rené", "René Faber", "rene.f"),
            (JSONL_FILE, "meridian", "rene", "Rene Hart", "rene.h")]:
        yield special(file, tenant, "clashing", username, full_name, local)
    for file, tenant, username in [(CSV_FILE, "harbour", "root"), (CSV_FILE, "juniper", "admin"),
                                   (JSONL_FILE, "meridian", "anonymous"), (JSONL_FILE, "juniper", "idm_admin")]:
        yield special(file, tenant, "reserved", username, f"The {username}", f"{username}.user")
    for file, tenant, username, local in [
            (CSV_FILE, "harbour", "jo+lee", "jo.lee"), (CSV_FILE, "juniper", "jo lee", "jo.lee2"),
            (JSONL_FILE, "meridian", "sam&pat", "sam.pat"), (JSONL_FILE, "juniper", "kim/night", "kim.night")]:
        yield special(file, tenant, "other_characters", username, username.title(), local)
    for file, tenant, username in [(CSV_FILE, "harbour", "Bruno.Kahl"), (CSV_FILE, "juniper", "DORIS"),
                                   (JSONL_FILE, "meridian", "McAdams"), (JSONL_FILE, "juniper", "eVa.Lind")]:
        yield special(file, tenant, "upper_case", username, username.replace(".", " "), username.lower() + ".u")
    for file, tenant, letter in [(CSV_FILE, "harbour", "w"), (JSONL_FILE, "meridian", "w")]:
        # Equal in the first 64 characters, so that cutting off alone would make them clash.
        username = "wolfeschlegelsteinhausenbergerdorff." + letter * 40 + ("a" if file == CSV_FILE else "b")
        yield special(file, tenant, "too_long", username, "W. Wolfeschlegelsteinhausenbergerdorff", f"wolfe.{tenant}")
    for file, tenant, username in [(CSV_FILE, "harbour", "4ever.young"), (JSONL_FILE, "meridian", "007bond"),
                                   (JSONL_FILE, "juniper", "_night.porter")]:
        yield special(file, tenant, "bad_first_character", username, "First " + username, "f." + username.strip("_"))
    # Dropped at import with a remark, so that these users have none either.
    for file, tenant, first in [(CSV_FILE, "juniper", some(CSV_FILE, "harbour")),
                                (JSONL_FILE, "meridian", some(CSV_FILE, "juniper")),
                                (JSONL_FILE, "meridian", some(JSONL_FILE, "juniper"))]:
        username = first.username if file == JSONL_FILE else first.username.upper()
        yield Row(file, tenant, f"namesake.of.{first.username}@{tenant}.example", username, first.full_name,
                  marks=["username_taken"])
    for file, tenant, local in [(CSV_FILE, "harbour", "paul.postman"), (JSONL_FILE, "juniper", "petra.post")]:
        yield Row(file, tenant, f"{local}@{tenant}.example", f"{local}@{tenant}.example", local.replace(".", " ").title(),
                  marks=["username_invalid"])


def main():
    rng = random.Random(SEED)
    rows = list(ordinary(rng))
    plain = [row for row in rows if row.role == "user"]
    rng.shuffle(plain)

    def take(count, *where):
        """Ordinary users of a file and tenant, nobody twice, so that every special case is a different person."""
        found = [row for row in plain if where in ((), (row.file, row.tenant), (row.file,))][:count]
        for row in found:
            plain.remove(row)
        return found

    def some(file, tenant):
        """An ordinary user who has to come before another row that repeats something of this one's."""
        row = take(1, file, tenant)[0]
        row.first = True
        return row

    # The users of the demonstration, with costs as real systems have them.
    hero = Row(JSONL_FILE, "juniper", "nora.lindqvist@juniper.example", "nora.lindqvist", "Nora Lindqvist", cost=10,
               kind="python")
    admin = Row(JSONL_FILE, "juniper", "victor.ames@juniper.example", "victor.ames", "Victor Ames", role="admin",
                cost=12, kind="php")
    rows += [hero, admin]
    rows += list(refused(some)) + list(derived(some))

    for row in take(25):
        row.active = False
    for row in take(7, CSV_FILE) + take(5, JSONL_FILE):
        row.hash, row.marks = "", ["no_password"]
    for row in take(6):
        row.password = "légaçy-" + row.email.split("@")[0]
        row.marks = ["non_ascii_password"]
    for row, name in zip(take(2, CSV_FILE, "harbour"), ['Quill, Ferdinand "Ferdi"', "O'Neil, Pat"], strict=True):
        row.full_name = name
        row.marks = ["quoted_name"]
    in_kanidm = take(1, CSV_FILE, "harbour") + take(2, JSONL_FILE, "juniper") + take(1, JSONL_FILE, "meridian")
    for row in in_kanidm:
        row.marks = ["mail_taken"]
    for row, kind, cost in zip(take(6), ["node", "perl", "php", "python", "node", "php"], [10, 10, 10, 12, 12, 11],
                               strict=True):
        row.kind, row.cost = kind, cost

    # Order: rows that others repeat come first, the rest is mixed, as it would be in an old table.
    rng.shuffle(rows)
    rows.sort(key=lambda row: not row.first)
    makers = ["python", "php", "node", "perl"]
    for number, row in enumerate(rows):
        if row.hash is None:
            row.kind = row.kind or makers[number % 4]
            row.cost = row.cost or rng.choice([4, 4, 4, 4, 5, 6])
            row.setting = f"{PREFIX[row.kind]}{row.cost:02}${random_salt(rng)}"
    hash_in_batches([row for row in rows if row.hash is None])

    for number, row in enumerate(row for row in rows if row.file == CSV_FILE):
        row.id, row.line = str(1000 + number), number + 2
    for number, row in enumerate(row for row in rows if row.file == JSONL_FILE):
        row.id, row.line = str(uuid.UUID(int=rng.getrandbits(128), version=4)), number + 1
    for row in rows:
        row.created_at = (f"{rng.randint(2012, 2023)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
                          f"T{rng.randint(0, 23):02}:{rng.randint(0, 59):02}:{rng.randint(0, 59):02}Z")
    write_csv([row for row in rows if row.file == CSV_FILE])
    write_jsonl([row for row in rows if row.file == JSONL_FILE])
    write_expected(rows, hero, admin, in_kanidm)


def write_csv(rows):
    with open(HERE / CSV_FILE, "w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(COLUMNS)
        for row in rows:
            out.writerow([row.id, row.email, row.username, row.full_name, row.hash, row.tenant, row.role,
                          row.created_at, "true" if row.active else "false"])


def write_jsonl(rows):
    with open(HERE / JSONL_FILE, "w", encoding="utf-8") as file:
        for row in rows:
            line = {"id": row.id, "email": row.email or None, "username": row.username or None,
                    "full_name": row.full_name, "password_hash": row.hash or None, "tenant": row.tenant,
                    "role": row.role, "created_at": row.created_at, "is_active": row.active}
            for key in row.absent:
                del line[key]
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def write_expected(rows, hero, admin, in_kanidm):
    def listed(those):
        those = sorted(those, key=lambda row: (row.file, row.line))
        return {"count": len(those), "rows": [{"file": row.file, "line": row.line, "id": row.id} for row in those]}

    def counted(values):
        return dict(sorted(Counter(values).items()))

    def person(row):
        return {"file": row.file, "line": row.line, "id": row.id, "email": row.email, "username": row.username,
                "full_name": row.full_name, "tenant": row.tenant, "role": row.role, "password": row.password}

    def totals(those):
        good = [row for row in those if not row.refused]
        active = [row for row in good if row.active]
        return {"rows": len(those), "accepted": len(good), "refused": len(those) - len(good),
                "refused_by_reason": counted(row.refused for row in those if row.refused),
                "active": len(active), "disabled": len(good) - len(active),
                "accepted_by_tenant": counted(row.tenant for row in good),
                "accepted_by_role": counted(row.role for row in good)}

    def marked(mark):
        return [row for row in accepted if mark in row.marks]

    accepted = [row for row in rows if not row.refused]
    active = [row for row in accepted if row.active]
    derived_classes = ["email_only", "non_ascii", "clashing", "reserved", "other_characters", "upper_case", "too_long",
                       "bad_first_character", "username_taken", "username_invalid"]
    surely_derived = {row for mark in derived_classes if mark != "clashing" for row in marked(mark)}
    surely_derived |= {row for row in marked("clashing") if not row.username.isascii()}
    remarks = {"NO_PASSWORD": marked("no_password"), "INACTIVE": [row for row in accepted if not row.active],
               "USERNAME_TAKEN": marked("username_taken"), "USERNAME_INVALID": marked("username_invalid")}
    low_cost = [row for row in accepted if row.hash and int(row.hash[4:6]) < 10]
    result = {
        "files": [CSV_FILE, JSONL_FILE],
        "tenants": TENANTS,
        "totals": totals(rows),
        "totals_by_file": {name: totals([row for row in rows if row.file == name]) for name in (CSV_FILE, JSONL_FILE)},
        "refused": {reason: listed(row for row in rows if row.refused == reason) for reason in REFUSED},
        "remarks": {reason: listed(those) for reason, those in remarks.items()} | {"LOW_COST": {"count": len(low_cost)}},
        "hashes": counted(row.hash[:7] for row in accepted if row.hash),
        "migration": {
            "total": len(active), "succeeds": len(active) - len(in_kanidm),
            "fails": len(in_kanidm), "fails_by_reason": {"MAIL_TAKEN": listed(in_kanidm)},
            "total_by_tenant": counted(row.tenant for row in active),
            "fails_by_tenant": counted(row.tenant for row in in_kanidm),
            "group_admins_by_tenant": counted(row.tenant for row in active if row.role != "user"),
            "not_migrated_because_disabled": len(accepted) - len(active),
        },
        "names": {mark: listed(marked(mark)) for mark in derived_classes},
        # Of two names that become the same, one may be kept: which of the plain ones in "clashing" is derived depends
        # on the order of naming.
        "names_derived": {"at_least": len(surely_derived), "at_most": len(surely_derived | set(marked("clashing")))},
        "hero": person(hero), "admin": person(admin),
        "non_ascii_passwords": [person(row) for row in marked("non_ascii_password")],
        "kanidm_preexisting": [
            {"name": f"elsewhere.{number}", "displayname": f"{row.full_name} (from elsewhere)", "mail": row.email,
             "row": {"file": row.file, "line": row.line, "id": row.id}}
            for number, row in enumerate(in_kanidm, start=1)],
    }
    (HERE / "expected.json").write_text(json.dumps(result, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
