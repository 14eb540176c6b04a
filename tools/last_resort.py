#!/usr/bin/env python3
"""Last-resort reader of Exclave: restores a version of a register from a site's folder and M custodians' keys.

    python last_resort.py --site FOLDER --state FINGERPRINT --list
    python last_resort.py --site FOLDER --state FINGERPRINT [--register ID] [--version N] [--facts]
                          --key kaja.key --key mart.key … --target NEW_FOLDER

For whoever has a copy of a site (from an object store: made with that store's own tools) and the keys, but no Exclave.
Needs Python 3.11 or later, cryptography 50 or later, zstandard. How one thing vouches for the next, from top to bottom:
(1) the fingerprint is the SHA-256 of the first charter's text; the old and the new quorum sign each later charter;
(2) a charter names a register's epoch note by SHA-256; a later epoch needs a warrant that the quorum of the newest
    charter signed, and the signature of the warrant's machine, which becomes its writer, or leaves him be (rekey);
(3) the writer signs the head of the epoch's ledger, whose Merkle root covers all entries, up to the successor's cut;
(4) M custodians' shares, each as its commitment says, make the seed of the epoch's opening key, whose public half the
    epoch note shows; it opens the packs' keys, and the box with the seeds of former epochs;
(5) a ledger entry names a version's manifest pack by SHA-256, and manifests name all further packs by SHA-256.

Signatures count only if the Ed25519 and the ML-DSA-44 half verify. NOT CHECKED: witnesses' cosignatures (whether a site
hides its latest versions: compare several), warrants' times, object lists, BLAKE3 sums (SHA-256 of packs covers them).
"""

# fmt: off
import argparse  # (few blank lines from here on, because this file is also printed)
import base64
import contextlib
import functools
import getpass
import hashlib
import io
import os
import re
import stat
import struct
import sys
import unicodedata
from typing import Any, NamedTuple

import zstandard
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric import ed25519, mldsa, mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf import hkdf, scrypt

SUITE = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)  # RFC 9180, X-Wing
say = functools.partial(print, file=sys.stderr)

class Failed(Exception):
    """What the person at the keyboard is told."""
def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
class Note(NamedTuple):
    """Lines of keyword and fields. A signed one has signatures below: em dash, name, base64 of key id and signature."""
    text: str
    signatures: frozenset[tuple[str, bytes, bytes]] = frozenset()
    @property
    def digest(self) -> str:
        return sha256(self.text.encode()).hex()
    def all(self, keyword: str) -> list[list[str]]:
        return [line.split(" ")[1:] for line in self.text.split("\n") if line.startswith(keyword + " ")]
    def one(self, keyword: str) -> str:
        """The last field of the only line with ``keyword``; empty if there is not one."""
        return "".join(fields[-1] for fields in self.all(keyword)[:1])

def parse_note(data: bytes) -> Note:
    text, _, tail = data.decode("utf-8").rpartition("\n\n")
    lines = [line.removeprefix("— ").split(" ") for line in tail.splitlines()]
    return Note(text + "\n", frozenset((name, base64.b64decode(b)[:4], base64.b64decode(b)[4:]) for name, b in lines))

class Site:
    """The objects of one state in a folder. They may be anybody's: no links are followed, sizes are looked at first."""
    def __init__(self, folder: str, state: str) -> None:
        self.state, self.root = state, os.path.join(folder, state)
        if not re.fullmatch("[0-9a-f]{64}", state) or not os.path.isdir(self.root):
            raise Failed(f"{folder} holds nothing of a state {state!r}; there is: {', '.join(os.listdir(folder)[:9])}")
    def read(self, name: str, digest: str | None = None) -> bytes | None:
        """The object ``name``, or None if there is no plain file, or not one with the SHA-256 ``digest``."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        with contextlib.suppress(OSError), open(os.open(os.path.join(self.root, name), flags), "rb") as file:
            info = os.fstat(file.fileno())
            data = file.read() if stat.S_ISREG(info.st_mode) and info.st_size <= 64 << 20 else b""
            return data if data and digest in (None, sha256(data).hex()) else None
        return None
    @functools.cache  # noqa: B019 - one site for each run
    def notes(self, folder: str) -> dict[str, Note]:
        """All notes in ``folder`` by their text's SHA-256. Signatures of copies of one text are put together."""
        found: dict[str, Note] = {}
        path = os.path.join(self.root, folder)
        for name in sorted(os.listdir(path)) if os.path.isdir(path) else []:
            try:
                note = parse_note(self.read(f"{folder}/{name}") or b"")
                found[note.digest] = Note(note.text, note.signatures | found.get(note.digest, note).signatures)
            except ValueError:
                say(f"passed over: {folder}/{name} is not a signed note")
        return found
    def card(self, digest: str) -> Note | None:
        return Note(data.decode()) if (data := self.read(f"card/{digest}", digest)) else None

def has_signed(note: Note, card: Note, ledger: str = "", tree: bytes = b"") -> bool:
    """Whether the holder of ``card`` signed the text with both keys. The head of a ledger is signed in its name: the
    ML-DSA-44 half is then a C2SP cosignature of the ``tree`` (size and root) with a time in its first 8 bytes."""
    name, other = (ledger, b"\x06") if ledger else (card.one("name"), b"\xffexclave/ml-dsa-44")
    good, sized = set(), bytes([len(name)]) + name.encode()
    kinds = (("ed25519", b"\x01", ed25519.Ed25519PublicKey), ("ml-dsa-44", other, mldsa.MLDSA44PublicKey))
    for (keyword, kind, algorithm), (who, key_id, blob) in ((k, s) for k in kinds for s in note.signatures):
        public = base64.b64decode(card.one(keyword))
        if (who, key_id) != (name, sha256(name.encode() + b"\n" + kind + public)[:4]):
            continue
        signature, message = blob, note.text.encode()
        if kind == b"\x06":
            signature, message = blob[8:], b"subtree/v1\n\0" + sized + blob[:8] + sized + bytes(8) + tree
        with contextlib.suppress(InvalidSignature, ValueError):
            algorithm.from_public_bytes(public).verify(signature, message)
            good.add(keyword)
    return len(good) == 2

def quorum_signed(site: Site, note: Note, charter: Note) -> bool:
    """Whether as many custodians of ``charter`` signed ``note`` as its threshold says."""
    people = [(label, site.card(digest)) for label, _, digest in charter.all("custodian")]
    good = {card for label, card in people if card and card.one("name") == label and has_signed(note, card)}
    return len(good) >= int(charter.one("threshold"))

def read_charters(site: Site) -> list[Note]:
    """(1) All charters in order, each vouched for by the one before."""
    notes = site.notes("charter")
    if site.state not in notes:
        raise Failed("the first charter, which the fingerprint names, is not at this site")
    chain = [notes[site.state]]
    while True:
        start = f"exclave/charter/v1\nnumber {len(chain) + 1}\nprevious {chain[-1].digest}\n"
        drafts = [note for note in notes.values() if note.text.startswith(start)]
        good = [note for note in drafts if all(quorum_signed(site, note, charter) for charter in (chain[-1], note))]
        if len(good) > 1:
            raise Failed(f"two charters number {len(chain) + 1} are signed by the quorum: ask the custodians")
        if not good:
            return chain
        chain += good

def registers_of(charter: Note) -> dict[str, tuple[str, int, str]]:
    """Register id → its public name or "sealed", number and note of the epoch it had when the charter was issued."""
    blocks = zip(charter.all("register"), charter.all("epoch"), strict=True)
    return {about[0]: (" ".join(about[1:]), int(number), digest) for about, (number, digest) in blocks}

def read_epochs(site: Site, charters: list[Note], register: str) -> list[Note]:
    """(2) The notes of all epochs from 1 up."""
    notes, listing = site.notes(f"{register}/epoch").values(), [c for c in charters if register in registers_of(c)]
    named = {digest: number for _, number, digest in (registers_of(charter)[register] for charter in listing)}
    epochs: list[Note] = []
    while True:
        used, start = {epoch.one("authority") for epoch in epochs}, f"exclave/epoch/v1\nregister {register}\nepoch "
        drafts = [note for note in notes if note.text.startswith(f"{start}{len(epochs) + 1}\n")]
        drafts = [n for n in drafts if not epochs or f"\nprevious {epochs[-1].digest} " in n.text]
        # Above the epochs that charters name, only warrants under the newest charter count, each of them once.
        by = listing[-1:] if len(epochs) >= max(named.values()) else listing
        good = [note for note in drafts if note.digest in named] or [
            n for n in drafts if n.one("authority") not in used and any(is_granted(site, n, c, epochs) for c in by)]
        if len(good) > 1:
            raise Failed(f"epoch {len(epochs) + 1} was granted twice: ask the custodians which one is right")
        for note in [note for note in drafts if note not in good]:
            say(f"passed over: epoch note {note.digest}, whose warrant does not count, or whose cards are missing")
        if not good and len(epochs) < max(named.values()):
            raise Failed(f"the note of epoch {len(epochs) + 1} of register {register} is not at this site")
        epochs += good
        if not good:
            return epochs

def is_granted(site: Site, note: Note, charter: Note, before: list[Note]) -> bool:
    """Whether an epoch's warrant is one of this state, charter, register and writer, and all have signed."""
    warrant, start = site.notes("warrant").get(note.one("authority")), f"exclave/warrant/v1\nstate {site.state}\n"
    if warrant is None or not warrant.text.startswith(f"{start}charter {charter.digest}\n"):
        return False
    pen = before[-1].one("writer") if before and warrant.one("act") == "rekey" else warrant.one("machine")
    known = warrant.one("act") in ("failover", "failback", "rekey") and note.one("writer") == pen
    allowed = known and [note.one("register")] in warrant.all("register") and quorum_signed(site, warrant, charter)
    maker = site.card(warrant.one("machine"))
    return allowed and maker is not None and has_signed(note, maker)

def merkle_root(leaves: list[bytes]) -> bytes:
    """RFC 6962, from the leaves' hashes."""
    if len(leaves) < 2:
        return leaves[0] if leaves else sha256(b"")
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\x01" + merkle_root(leaves[:half]) + merkle_root(leaves[half:]))

def read_bundle(site: Site, folder: str, index: int, width: int) -> list[bytes]:
    """The first ``width`` of a bundle's up to 256 entries, each with its length in two bytes before it."""
    digits = str(index).rjust(-(-len(str(index)) // 3) * 3, "0")
    path = f"{folder}/tile/entries/" + re.sub(r"(\d{3})(?=\d)", r"x\1/", digits)
    longer = (site.read(path if have == 256 else f"{path}.p/{have}") for have in range(width, 257))
    stream = io.BytesIO(next((data for data in longer if data), b""))
    return [stream.read(int.from_bytes(stream.read(2), "big")) for _ in range(width)]

def read_ledger(site: Site, epoch: Note, successor: Note | None) -> list[Note]:
    """(3) All entries of an epoch that count: up to the cut that its successor names, or to the signed head."""
    register, number = epoch.one("register"), int(epoch.one("epoch"))
    folder = f"{register}/ledger/{number:08d}-{epoch.digest[:16]}"
    if successor is not None:
        _, size, root = successor.all("previous")[0]
    else:
        data, writer = site.read(f"{folder}/checkpoint"), site.card(epoch.one("writer"))
        if data is None:
            say(f"epoch {number} has no ledger here: nothing was written in it yet, or this copy is older than that")
            return []
        head = parse_note(data)
        origin, size, root = head.text.splitlines()
        tree = struct.pack(">Q", int(size)) + base64.b64decode(root)
        mine = origin == f"exclave/{site.state}/{register}/{number}"
        if writer is None or not mine or not has_signed(head, writer, origin, tree):
            raise Failed(f"the ledger of epoch {number} is not signed by its writer, or the writer's card is missing")
    entries: list[bytes] = []
    while len(entries) < int(size):
        entries += read_bundle(site, folder, len(entries) // 256, min(256, int(size) - len(entries)))
    if merkle_root([sha256(b"\0" + entry) for entry in entries]) != base64.b64decode(root):
        raise Failed(f"the ledger of epoch {number}: entries are missing or changed, so its root is another one")
    return [Note(entry.decode()) for entry in entries]

def read_versions(site: Site, epochs: list[Note], all_needed: bool) -> dict[int, Note]:
    """The ledger entry of each version by its number. ``all_needed``: the newest ledger must be whole."""
    found: dict[int, Note] = {}
    for epoch, successor in zip(epochs, [*epochs[1:], None], strict=True):
        start = "\n".join(["exclave/version/v1", *epoch.text.split("\n")[1:3], ""])
        try:
            entries = read_ledger(site, epoch, successor)
            found |= {int(leaf.one("sequence")): leaf for leaf in entries if leaf.text.startswith(start)}
        except (Failed, ValueError) as error:
            if all_needed and successor is None:
                raise Failed(f"{error}. Take another site, or name an earlier version with --version") from error
            say(f"left out: {error}")
    return found

class OpeningKey:
    """MLKEM768-X25519 from a 32-byte seed: SHAKE256 gives the ML-KEM seed (64 bytes) and the X25519 key (32)."""
    def __init__(self, seed: bytes) -> None:
        expanded = hashlib.shake_256(seed).digest(96)
        lattice = mlkem.MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
        curve = x25519.X25519PrivateKey.from_private_bytes(expanded[64:])
        self.public = lattice.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw()
        self._key = hpke.MLKEM768X25519PrivateKey(lattice, curve)
    def open(self, sealed: bytes | None, *info: object) -> bytes | None:
        with contextlib.suppress(InvalidTag, ValueError):
            return SUITE.decrypt(sealed or b"", self._key, info="".join(f"{line}\n" for line in info).encode())
        return None

def read_key_file(path: str) -> tuple[str, OpeningKey]:
    """Name and opening key of a custodian; asks for the passphrase if there is one."""
    with open(path, encoding="latin-1") as file:
        note = Note(file.read(1025))
    seed = base64.b64decode(note.one("seed"))
    for salt, log2_n, sealed in note.all("scrypt"):
        typed = unicodedata.normalize("NFC", getpass.getpass(f"Passphrase of {path}: ")).encode()
        slow = scrypt.Scrypt(salt=base64.b64decode(salt), length=32, n=1 << min(int(log2_n), 20), r=8, p=1)
        head = note.text[: note.text.index("scrypt ")].encode()
        seed = AESGCM(slow.derive(typed)).decrypt(bytes(12), base64.b64decode(sealed), head)
    if len(seed) != 32:
        raise Failed(f"{path} is no key file")
    purpose = hkdf.HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=b"exclave/opening/v1")
    return note.one("name"), OpeningKey(purpose.derive(seed))

def times(a: int, b: int) -> int:
    """Product in GF(2^8) with the polynomial 0x11b."""
    product = 0
    for bit in range(8):
        product ^= a if b >> bit & 1 else 0
        a = a << 1 ^ (0x11B if a & 0x80 else 0)
    return product

def combine(shares: dict[int, bytes]) -> bytes:
    """Shamir: for each of the 32 bytes, the value at 0 of the polynomial through all shares."""
    secret = bytes(32)
    for x, share in shares.items():
        weight = 1
        for other in shares.keys() - {x}:
            weight = times(weight, times(other, next(i for i in range(256) if times(i, other ^ x) == 1)))
        secret = bytes(s ^ times(weight, y) for s, y in zip(secret, share, strict=True))
    return secret

def open_shares(site: Site, epoch: Note, keys: dict[str, OpeningKey], given: dict[str, bytes]) -> dict[int, OpeningKey]:
    """(4) The opening keys of all epochs: the newest one's from its shares, the others' out of its ancestor box."""
    register, number, needed = epoch.one("register"), int(epoch.one("epoch")), int(epoch.one("threshold"))
    lines = {name: fields for name, *fields in epoch.all("share")}
    good: dict[int, bytes] = {}
    for name in sorted(keys.keys() | given.keys()):
        x, promise, digest = lines.get(name, ["0", "", "no"])
        box = site.read(f"{register}/box/{digest}", digest)
        share = given[name] if name in given else keys[name].open(box, "exclave/share/v1", register, number, x, name)
        bound = f"exclave/share-commitment/v1\n{register}\n{number}\n{x}\n".encode()
        if share is not None and sha256(bound + share).hex() == promise:
            good[int(x)] = share
        else:
            why = "it is not the one that was committed to" if share else "his key does not open it, or it is missing"
            say(f"BAD SHARE of {name} in epoch {number}: {why}. Shares have: {', '.join(lines)}")
    if len(good) < needed:
        raise Failed(f"{len(good)} of the {needed} shares that open epoch {number}: bring keys of more custodians")
    key = OpeningKey(combine(good))
    if base64.b64encode(key.public).decode() != epoch.one("opening"):
        raise Failed(f"the shares of epoch {number} are those committed to, but do not make its key: try other ones")
    box = site.read(f"{register}/box/{(older := epoch.all('ancestor')[0][0])}", older)  # "without …" may follow it
    plain = key.open(box, "exclave/ancestor/v1", register, number) or b""
    return {former: OpeningKey(seed) for former, seed in struct.iter_unpack(">I32s", plain)} | {number: key}

SIZED = {0xC4: ("bytes", 1), 0xC5: ("bytes", 2), 0xC6: ("bytes", 4), 0xD9: ("text", 1), 0xDA: ("text", 2),
         0xDB: ("text", 4), 0xDC: ("array", 2), 0xDD: ("array", 4), 0xDE: ("map", 2), 0xDF: ("map", 4)}
def unpack(stream: io.BytesIO) -> Any:
    """A value in MessagePack, of the kinds that manifests use: no floats, no extensions, no null."""
    kind = stream.read(1)[0]
    if kind < 0x80 or kind >= 0xE0:
        return kind if kind < 0x80 else kind - 256
    if kind in (0xC2, 0xC3):
        return kind == 0xC3
    if 0xCC <= kind <= 0xD3:  # integers of 1, 2, 4 or 8 bytes, unsigned and signed
        return int.from_bytes(stream.read(1 << kind % 4), "big", signed=kind >= 0xD0)
    if kind < 0xC0:
        family, count = ("map", "array", "text", "text")[(kind - 0x80) >> 4], kind & (31 if kind >= 0xA0 else 15)
    else:
        family, size = SIZED[kind]
        count = int.from_bytes(stream.read(size), "big")
    if family == "array":
        return [unpack(stream) for _ in range(count)]
    if family == "map":
        return {unpack(stream): unpack(stream) for _ in range(count)}
    if len(data := stream.read(count)) != count:
        raise ValueError("a manifest is cut off")
    return data if family == "bytes" else data.decode("utf-8")

class Packs:
    """(5) Sealed chunks of one register. A pack is read whole and must have its own name as SHA-256."""
    def __init__(self, site: Site, register: str, keys: dict[int, OpeningKey]) -> None:
        self._site, self._register, self._keys = site, register, keys
        self.load = functools.lru_cache(4)(self._load)  # of 16 MiB each
    def _load(self, name: bytes) -> tuple[bytes, AESGCM, int, int]:  # the last: where its head record lies
        path = f"{self._register}/pack/{name.hex()[:2]}/{name.hex()}"
        data = self._site.read(path, name.hex())
        if data is None:
            raise Failed(f"the pack {path} is missing or DAMAGED (its name is its SHA-256): get it from another site")
        for number in sorted(self._keys, reverse=True):
            secret = self._keys[number].open(data[8:1184], "exclave/pack/v1", self._register, number)
            if data[:8] == b"EXCPACK1" and secret is not None:
                key, offset, length = struct.unpack(">32sII", secret)
                return data, AESGCM(key), offset, length
        raise Failed(f"the pack {path} opens with none of the keys of the epochs {sorted(self._keys)}")
    def chunk(self, pack: bytes, offset: int, length: int, raw: int | None, chunk: bytes) -> bytes:
        data, cipher, plain = *self.load(pack)[:2], length == (raw or 0) + 16  # plain: not compressed
        body = cipher.decrypt(offset.to_bytes(12, "big"), data[offset : offset + length], b"exclave/chunk/v1" + chunk)
        if not plain and (not 0 <= (size := zstandard.frame_content_size(body)) <= 8 << 20 or raw not in (None, size)):
            raise ValueError("a chunk has another length than it should")
        return body if plain else zstandard.ZstdDecompressor().decompress(body, allow_extra_data=False)
    def node(self, *ref: Any) -> Any:
        stream = io.BytesIO(self.chunk(*ref))
        node = unpack(stream)
        if stream.read() or (node["version"] if isinstance(node, dict) else node[0]) != 1:
            raise ValueError("a manifest is of an unknown version")
        return node
    def records(self, tree: list[Any], level: int) -> Any:
        """Entries in walk order, each with its content: (chunk or None for a hole, start in the chunk, length)."""
        node = self.node(*tree)
        if level == 0:  # version, packs, chunks, records
            for entry, extents, _, lists in node[3]:
                yield entry, self.content(node, extents, lists)
            return
        for pack, *rest in node[2]:  # version, level, references, paths; 32 zero bytes: the pack that this node is in
            yield from self.records([pack if any(pack) else tree[0], *rest], level - 1)
    def content(self, node: list[Any], extents: list[Any], lists: list[Any]) -> Any:
        for position, start, length in extents:
            pack, *rest = node[2][position] if position >= 0 else [0]
            yield [node[1][pack], *rest] if position >= 0 else None, start, length
        for ref in lists:  # of nodes with further extents: version, packs, chunks, extents
            below = self.node(*ref)
            yield from self.content(below, below[3], [])

FILE, FOLDER, SYMLINK, HARDLINK = range(4)
SPECIAL = {4: stat.S_IFIFO, 5: stat.S_IFSOCK, 6: stat.S_IFCHR, 7: stat.S_IFBLK}
class Target:
    """One dataset in a new folder. Every entry stands in a folder that was made here before, so nothing leads out."""
    def __init__(self, root: str, packs: Packs, broken: set[bytes]) -> None:
        self.root, self.packs, self.broken = os.path.realpath(os.fsencode(root)), packs, broken
        self.open: list[list[Any]] = []  # entries of the folders that are being filled
    def full(self, path: bytes) -> bytes:
        """Where an entry goes; refuses every path that could lead elsewhere."""
        if b"\0" in path or (path and any(part in (b"", b".", b"..") for part in path.split(b"/"))):
            raise Failed(f"REFUSED: the manifest holds a path that leads out of its folder: {path!r}")
        return self.root + b"/" + path if path else self.root
    def put(self, entry: list[Any], content: Any) -> None:
        path, kind, full = entry[0], entry[1], self.full(entry[0])
        while path and self.open and self.open[-1][0] != path.rpartition(b"/")[0]:
            self.leave()
        if bool(path) != bool(self.open):
            raise Failed(f"REFUSED: the manifest holds an entry that is not in a folder: {path!r}")
        try:
            if kind == FOLDER:
                os.mkdir(full, 0o700)
                self.open.append(entry)
            elif kind == HARDLINK:
                source = self.full(entry[7])
                if os.path.realpath(os.path.dirname(source)) != os.path.dirname(source):
                    raise Failed(f"REFUSED: a hard link leads through a symbolic link: {entry[7]!r}")
                os.link(source, full, follow_symlinks=False)
            else:
                if kind == FILE:
                    self.make(entry, full, content)
                else:
                    os.symlink(entry[7], full) if kind == SYMLINK else os.mknod(full, SPECIAL[kind] | 0o600, entry[9])
                self.settle(entry, full)
        except OSError as error:
            if kind in (FILE, FOLDER):
                raise
            self.broken.add(full)
            say(f"not restored: {os.fsdecode(path)}: {error.strerror}")
    def make(self, entry: list[Any], full: bytes, content: Any) -> None:
        with open(os.open(full, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
            for ref, start, length in content:
                if ref is None:
                    file.seek(length, os.SEEK_CUR)  # a hole
                elif file.write(self.packs.chunk(*ref)[start : start + length]) != length:
                    raise ValueError("an extent reaches beyond its chunk")
            if file.truncate() != entry[6]:
                raise ValueError("a file's content has another length than the file")
    def settle(self, entry: list[Any], full: bytes) -> None:
        """Owner (if we may) before mode, some bits of which it would clear; times last."""
        path, kind, mode, uid, gid, mtime_ns = entry[:6]
        if os.geteuid() == 0:
            os.chown(full, uid, gid, follow_symlinks=False)
        for name, value in entry[8]:
            try:
                os.setxattr(full, name, value, follow_symlinks=False)
            except OSError as error:
                self.broken.add(full)
                say(f"not restored: attribute {os.fsdecode(name)} of {os.fsdecode(path)}: {error.strerror}")
        if kind != SYMLINK:
            os.chmod(full, mode & 0o7777)
        os.utime(full, ns=(mtime_ns, mtime_ns), follow_symlinks=False)
    def leave(self) -> None:
        self.settle(self.open[-1], self.full(self.open.pop()[0]))  # the innermost folder is complete

def restore(packs: Packs, leaf: Note, folder: str, facts: bool) -> None:
    manifest, count, broken = bytes.fromhex(leaf.one("manifest")), 0, set[bytes]()
    root = packs.node(manifest, *packs.load(manifest)[2:], None, bytes(32))
    if any(str(root[key]) != leaf.one(key) for key in ("register", "epoch", "sequence")):
        raise Failed("the manifest is of another version than the ledger says")
    for dataset in root["datasets"]:
        label, (pack, *rest) = dataset["label"], dataset["tree"]
        if not re.fullmatch("[a-z][a-z0-9-]{0,39}", label):
            raise Failed(f"REFUSED: the manifest names a dataset {label!r}")
        target = Target(os.path.join(folder, label), packs, broken)
        for entry, content in packs.records([pack if any(pack) else manifest, *rest], dataset["level"]):
            target.put(entry, content)
            count += 1
        while target.open:
            target.leave()
        print(f"restored {label} ({dataset['kind']}) of {root['name']}: {dataset['entries']} entries")
        print("".join(f"  {name}: {text}\n" for name, text in sorted(dataset["facts"].items()) if facts), end="")
    print(f"DONE: {count - len(broken)} of {count} entries restored whole; every pack read has the SHA-256 signed for")

def run(options: argparse.Namespace) -> None:
    site = Site(options.site, options.state)
    charters = read_charters(site)
    names = {register: about[0] for charter in charters for register, about in registers_of(charter).items()}
    for register in sorted(names) if options.list else []:
        print(f"register {register} {names[register]}")
        for e in (epochs := read_epochs(site, charters, register)):
            print(f"  epoch {e.one('epoch')}: any {e.one('threshold')} of", ", ".join(s[0] for s in e.all("share")))
        for number, entry in sorted(read_versions(site, epochs, False).items()):
            print(f"  version {number} of {entry.one('time')}, epoch {entry.one('epoch')}")
    if options.list:
        return
    if options.register not in names and (options.register or len(names) != 1):
        raise Failed("name a register with --register: " + ", ".join(f"{key} ({names[key]})" for key in sorted(names)))
    epochs = read_epochs(site, charters, options.register or next(iter(names)))
    versions = read_versions(site, epochs, options.version is None)
    leaf = versions.get(options.version or max(versions, default=0))
    if leaf is None or not options.target:
        raise Failed(f"give --target and one of the versions: {', '.join(map(str, sorted(versions))) or 'none here'}")
    os.makedirs(options.target, mode=0o700, exist_ok=True)
    if os.listdir(options.target):
        raise Failed(f"{options.target} is not empty; nothing was written")
    given = {name: bytes.fromhex(share) for name, _, share in (item.partition("=") for item in options.share)}
    keys = open_shares(site, epochs[-1], dict(read_key_file(path) for path in options.key), given)
    say(f"restoring version {leaf.one('sequence')} of {leaf.one('time')}")
    restore(Packs(site, leaf.one("register"), keys), leaf, options.target, options.facts)

def main() -> int:
    parser = argparse.ArgumentParser(description="Last-resort reader of Exclave; the file itself explains more.")
    parser.add_argument("--site", required=True, help="folder with a copy of a site")
    parser.add_argument("--state", required=True, help="the state's fingerprint, 64 hexadecimal digits")
    parser.add_argument("--list", action="store_true", help="list registers, epochs and versions")
    parser.add_argument("--register", help="register id; needed if there are several")
    parser.add_argument("--version", type=int, help="number of a version; the newest if not given")
    parser.add_argument("--key", action="append", default=[], help="a custodian's key file; once for each")
    parser.add_argument("--share", action="append", default=[], help="NAME=HEX: his share of the newest epoch instead")
    parser.add_argument("--target", help="new or empty folder; after a failure, what stands in it is incomplete")
    parser.add_argument("--facts", action="store_true", help="also show what the writer noted of each dataset")
    try:
        run(parser.parse_args())
    except (Failed, OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError,
            InvalidTag, struct.error, zstandard.ZstdError) as error:
        say(f"FAILED: {str(error) or 'a wrong passphrase, or a chunk that was sealed wrongly'}")
        return 1
    return 0

if __name__ == "__main__":
    sys.exit(main())
