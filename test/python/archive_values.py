"""Compares every value of archive objects, as DuckDB, pyarrow and parquet-java read them, with the Avro records they were made of.

usage: archive_values.py DIR

DIR holds a folder per topic with schema.json (Avro), records.ndjson (what was on the topic) and the objects. A record is
{"p": PARTITION, "o": OFFSET, "t": MILLISECONDS, "k": BASE64|null, "h": [[NAME, BASE64|null]], "v": BASE64|null}; v is Avro's
binary form without the registry's prefix. Beside each object FILE.parquet is FILE.parquet.ndjson, which parquet-java wrote: see ReadParquet.java.
The Avro decoder below is a further one, written for this comparison alone.

Output: {"schemas": N, "rows": N, "values": N, "sorted": {TYPE: N}, "differences": [TEXT]}, at most twenty differences. values counts
the leaves that were compared, for one reader; sorted the row groups that pyarrow finds sorted, as their metadata says, by the type of
the column.
"""

import base64
import datetime
import decimal
import json
import pathlib
import struct
import sys
import uuid

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

EPOCH = datetime.datetime(1970, 1, 1)
META = ["_partition", "_offset", "_timestamp", "_key", "_headers", "_tombstone"]
counted = 0


class Avro:
    """Decodes Avro's binary form into canonical values; names of types are kept in self.named."""

    def __init__(self, schema):
        self.named = {}
        self.schema = self.resolve(schema, "")

    def resolve(self, s, space):
        if isinstance(s, list):
            return [self.resolve(b, space) for b in s]
        if isinstance(s, str):
            if s in ("null", "boolean", "int", "long", "float", "double", "bytes", "string"):
                return {"type": s}
            return self.named.get(s) or self.named[space + "." + s]
        s = dict(s)
        t = s["type"]
        if t in ("record", "fixed", "enum"):
            space = s.get("namespace", space)
            self.named[s["name"]] = self.named[space + "." + s["name"]] = s
        if t == "record":
            s["fields"] = [dict(f, type=self.resolve(f["type"], space)) for f in s["fields"]]
        elif t == "array":
            s["items"] = self.resolve(s["items"], space)
        elif t == "map":
            s["values"] = self.resolve(s["values"], space)
        elif isinstance(t, (dict, list)):
            return self.resolve(t, space)
        return s

    def read(self, data):
        self.data, self.at = data, 0
        value = self.value(self.schema)
        if self.at != len(data):
            raise ValueError("bytes are left over")
        return value

    def long(self):
        n = shift = 0
        while True:
            b = self.data[self.at]
            self.at += 1
            n |= (b & 0x7F) << shift
            shift += 7
            if b < 0x80:
                return (n >> 1) ^ -(n & 1)

    def take(self, n):
        self.at += n
        return self.data[self.at - n : self.at]

    def blocks(self, one):
        out = []
        while n := self.long():
            if n < 0:
                n = -n
                self.long()
            out += [one() for _ in range(n)]
        return out

    def value(self, s):
        if isinstance(s, list):
            branch = s[self.long()]
            value = self.value(branch)
            others = [b for b in s if b["type"] != "null"]
            if branch["type"] == "null" or len(others) == 1:
                return value
            return {name_of(branch): value}
        t = s["type"]
        if t == "null":
            return None
        if t == "boolean":
            return self.take(1) == b"\x01"
        if t in ("int", "long"):
            return self.long()
        if t == "float":
            return struct.unpack("<f", self.take(4))[0]
        if t == "double":
            return struct.unpack("<d", self.take(8))[0]
        if t == "enum":
            return s["symbols"][self.long()]
        if t in ("bytes", "fixed"):
            b = self.take(s["size"] if t == "fixed" else self.long())
            if s.get("logicalType") == "decimal":
                return int.from_bytes(b, "big", signed=True)
            return "b:" + b.hex()
        if t == "string":
            return self.take(self.long()).decode()
        if t == "record":
            return {f["name"]: self.value(f["type"]) for f in s["fields"]}
        if t == "array":
            return self.blocks(lambda: self.value(s["items"]))
        return [list(x) for x in self.blocks(lambda: (self.take(self.long()).decode(), self.value(s["values"])))]


def name_of(branch):
    return branch["name"].split(".")[-1] if "name" in branch else branch["type"]


def whole(delta, unit):
    n, rest = divmod(delta, unit)
    if rest:
        raise ValueError("a part of a unit")
    return n


def canonical(s, v):
    """What a reader gave, in the form of Avro.value."""
    global counted
    if isinstance(s, list):
        others = [b for b in s if b["type"] != "null"]
        if v is None:
            return None
        if len(others) == 1:
            return canonical(others[0], v)
        present = [b for b in others if v[name_of(b)] is not None]
        if len(present) != 1:
            raise ValueError(f"{len(present)} types of a union are there")
        return {name_of(present[0]): canonical(present[0], v[name_of(present[0])])}
    t, logical = s["type"], s.get("logicalType", "")
    if t == "record":
        return {f["name"]: canonical(f["type"], v[f["name"]]) for f in s["fields"]}
    if t == "array":
        return [canonical(s["items"], x) for x in v]
    if t == "map":
        return [[k, canonical(s["values"], x)] for k, x in (v.items() if isinstance(v, dict) else v)]
    counted += 1
    if logical == "decimal" and isinstance(v, decimal.Decimal):
        return int(v.scaleb(s["scale"], context=decimal.Context(prec=60)))
    if isinstance(v, datetime.datetime):
        return whole(v.replace(tzinfo=None) - EPOCH, datetime.timedelta(milliseconds=1) if logical.endswith("millis") else datetime.timedelta(microseconds=1))
    if isinstance(v, datetime.date):
        return (v - EPOCH.date()).days
    if isinstance(v, datetime.time):
        micros = ((v.hour * 60 + v.minute) * 60 + v.second) * 1_000_000 + v.microsecond
        return micros // 1000 if logical == "time-millis" else micros
    if logical == "uuid" and t == "fixed" and isinstance(v, str) and not v.startswith("b:"):
        v = uuid.UUID(v)
    if isinstance(v, uuid.UUID):
        return str(v) if t == "string" else "b:" + v.bytes.hex()
    if isinstance(v, bytes):
        return "b:" + v.hex()
    if logical == "decimal" and isinstance(v, str):
        return int.from_bytes(bytes.fromhex(v.removeprefix("b:")), "big", signed=True)
    return v


def with_duckdb(path):
    db = duckdb.connect()
    db.execute("SET TimeZone = 'UTC'")
    return lists(db.execute("SELECT * FROM read_parquet(?, hive_partitioning = false)", [str(path)]).to_arrow_table())


def with_pyarrow(path):
    return lists(pq.ParquetFile(path).read())


def with_parquet_java(path):
    """What is stored: of the metadata's columns alone the logical types are applied here."""
    rows = [json.loads(line) for line in path.with_name(path.name + ".ndjson").read_text().split("\n") if line]
    raw = lambda b: None if b is None else bytes.fromhex(b.removeprefix("b:"))
    for r in rows:
        r["_timestamp"] = EPOCH + datetime.timedelta(milliseconds=r["_timestamp"])
        r["_key"] = raw(r["_key"])
        r["_headers"] = [{"key": h["key"], "value": raw(h["value"])} for h in r["_headers"]]
    return {name: [r[name] for r in rows] for name in (rows[0] if rows else META)}


def row(fields, columns, i):
    """A row in the form of a record of the topic."""
    got = {name: columns[name][i] for name in columns}
    raw = lambda b: None if b is None else base64.b64encode(b).decode()
    value = None
    if not got["_tombstone"]:
        value = {f["name"]: canonical(f["type"], got[f["name"]]) for f in fields}
    elif any(got[name] is not None for name in columns if name not in META):
        raise ValueError("a tombstone has values")
    return {
        "p": got["_partition"],
        "o": got["_offset"],
        "t": whole(got["_timestamp"].replace(tzinfo=None) - EPOCH, datetime.timedelta(milliseconds=1)),
        "k": raw(got["_key"]),
        "h": [[h["key"], raw(h["value"])] for h in got["_headers"]],
        "v": value,
    }


def lists(table):
    """Columns as lists. Maps stay pairs."""
    return {name: table[name].to_pylist() for name in table.column_names}


def order(path, counts):
    """What is wrong with the order of a file's rows, as pyarrow sees columns and metadata. A file names at most one column."""
    file = pq.ParquetFile(path)
    by = (file.metadata.metadata or {}).get(b"databus.archive.sorted_by", b"").decode()
    for g in range(file.num_row_groups):
        group = file.metadata.row_group(g)
        says = [(group.column(s.column_index).path_in_schema, s.descending, s.nulls_first) for s in group.sorting_columns]
        if says != ([(by, False, False)] if by else []):
            return f"row group {g} says that it is sorted by {says}, the footer by {by!r}"
        rows = file.read_row_group(g, columns=list({by or "_offset": 1, "_offset": 1}))
        while any(pa.types.is_struct(f.type) for f in rows.schema):
            rows = rows.flatten()
        keys = [(v is None, v) for v in map(comparable, rows[by or "_offset"].to_pylist())]
        ordered = list(zip(keys, rows["_offset"].to_pylist()))
        for a, b in zip(ordered, ordered[1:]):
            if not (a[0][0] < b[0][0] or a[0][0] == b[0][0] and (a[0][0] or a[0][1] <= b[0][1]) and (a[0] != b[0] or a[1] < b[1])):
                return f"row group {g} is not sorted by {by or '_offset'}: {a} comes before {b}"
        if by:
            kind = str(group.column(group.sorting_columns[0].column_index).physical_type)
            counts[kind] = counts.get(kind, 0) + 1
    return None


def comparable(v):
    """Strings in the order of their bytes."""
    return v.encode() if isinstance(v, str) else v.bytes if isinstance(v, uuid.UUID) else v


READERS = [("duckdb", with_duckdb), ("pyarrow", with_pyarrow), ("parquet-java", with_parquet_java)]


def main(where):
    differences, schemas, rows, counts = [], 0, 0, {}
    for folder in sorted(p for p in pathlib.Path(where).iterdir() if p.is_dir()):
        avro = Avro(json.loads((folder / "schema.json").read_text()))
        want = {}
        for line in (folder / "records.ndjson").read_text().splitlines():
            r = json.loads(line)
            if r["v"] is not None:
                r["v"] = avro.read(base64.b64decode(r["v"]))
            want[r["p"], r["o"]] = r
        schemas += 1
        for path in sorted(folder.rglob("*.parquet")):
            if wrong := order(path, counts):
                differences.append(f"pyarrow: {path}: {wrong}")
        for name, reader in READERS:
            left = dict(want)
            for path in sorted(folder.rglob("*.parquet")):
                columns = reader(path)
                fields = avro.schema["fields"]
                # Before the first value of a partition its objects know no schema.
                if list(columns) == META + ["value"] and all(columns["_tombstone"]):
                    fields = []
                elif list(columns) != META + [f["name"] for f in fields]:
                    differences.append(f"{name}: {path}: columns {list(columns)}")
                    continue
                for i in range(len(columns["_offset"])):
                    key = columns["_partition"][i], columns["_offset"][i]
                    try:
                        got = row(fields, columns, i)
                    except Exception as e:
                        got = repr(e)
                    if got != left.pop(key, "no such record"):
                        differences.append(f"{name}: {folder.name} {key}: {got} is not {want.get(key)}"[:2000])
            if left:
                differences.append(f"{name}: {folder.name}: {len(left)} records are missing")
        rows += len(want)
    print(json.dumps({"schemas": schemas, "rows": rows, "values": counted // len(READERS), "sorted": counts, "differences": differences[:20]}))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
