"""Lists the offsets in the Parquet files below a directory, as DuckDB or as pyarrow reads them, and prints JSON.

usage: archive_offsets.py duckdb|pyarrow DIR

Output: one object per file, in order of path: {"path": P, "meta": {KEY: TEXT}, "partitions": [N], "rows": N,
"runs": [[FIRST, LAST], ...]}: meta is the file's own (pyarrow's reader for both), runs are the offsets in their order, those
that follow each other as one. Every column is decoded, so that a damaged page is found. Exit code 1 with a message on
standard error if a file cannot be read.
"""

import json
import pathlib
import sys

PREFIX = "databus.archive."


def runs(offsets):
    out = []
    for o in offsets:
        if out and out[-1][1] + 1 == o:
            out[-1][1] = o
        else:
            out.append([o, o])
    return out


def duckdb_reader():
    import duckdb

    db = duckdb.connect()
    db.execute("SET preserve_insertion_order = true")

    def read(path):
        rel = db.read_parquet(str(path), hive_partitioning=False)
        names = ", ".join('"' + c.replace('"', '""') + '"' for c in rel.columns)
        db.sql(f"SELECT bit_xor(hash({names})) FROM rel").fetchall()
        rows = db.sql("SELECT _partition, _offset FROM rel").fetchall()
        meta = db.execute("SELECT key::VARCHAR, value::VARCHAR FROM parquet_kv_metadata(?)", [str(path)]).fetchall()
        return [r[0] for r in rows], [r[1] for r in rows], {k: v for k, v in meta}

    return read


def pyarrow_reader():
    import pyarrow.parquet as pq

    def read(path):
        file = pq.ParquetFile(path)
        table = file.read()
        meta = {k.decode(): v.decode() for k, v in (file.metadata.metadata or {}).items()}
        return table["_partition"].to_pylist(), table["_offset"].to_pylist(), meta

    return read


def main(reader, where):
    read = {"duckdb": duckdb_reader, "pyarrow": pyarrow_reader}[reader]()
    root = pathlib.Path(where)
    out = []
    for path in sorted(root.rglob("*.parquet")):
        try:
            partitions, offsets, meta = read(path)
        except Exception as e:
            raise SystemExit(f"reading {path}: {e}") from e
        meta = {k.removeprefix(PREFIX): v for k, v in meta.items() if k.startswith(PREFIX) and k != PREFIX + "schema"}
        out.append({"path": str(path.relative_to(root)), "meta": meta, "partitions": sorted(set(partitions)), "rows": len(offsets), "runs": runs(offsets)})
    json.dump(out, sys.stdout)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
