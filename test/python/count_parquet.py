"""Counts the rows of Parquet files with DuckDB, and prints JSON.

usage: count_parquet.py DIR
       count_parquet.py s3://BUCKET[/PREFIX]

All *.parquet files below DIR or PREFIX are read whole, so a damaged page is found too. For S3 the server is named by
S3_ENDPOINT (URL), S3_REGION, S3_ACCESS_KEY and S3_SECRET_KEY; pyarrow reads the objects and DuckDB the Arrow batches,
because DuckDB's own S3 reader is an extension that it would download.

Output: {"rows": N, "files": [{"path": P, "rows": N, "columns": {NAME: DUCKDB_TYPE}}]}, files in order of path, paths
relative to DIR or to the bucket. Exit code 1 with a message on standard error if a file cannot be read.
"""

import json
import os
import sys
from urllib.parse import urlparse

import duckdb
import pyarrow.dataset as ds
from pyarrow import fs


def open_store(where):
    """Returns a file system, the directory to look in, and what to cut from the paths."""
    if not where.startswith("s3://"):
        path = os.path.abspath(where)
        return fs.LocalFileSystem(), path, path + "/"
    endpoint = urlparse(os.environ["S3_ENDPOINT"])
    store = fs.S3FileSystem(
        endpoint_override=endpoint.netloc,
        scheme=endpoint.scheme,
        region=os.environ.get("S3_REGION", "us-east-1"),
        access_key=os.environ["S3_ACCESS_KEY"],
        secret_key=os.environ["S3_SECRET_KEY"],
    )
    path = where.removeprefix("s3://").rstrip("/")
    return store, path, path.split("/")[0] + "/"


def count(db, store, path):
    if isinstance(store, fs.LocalFileSystem):
        table = db.read_parquet(path, hive_partitioning=False)
    else:
        # No partitioning: a dt= in the path is not a column of the file.
        table = db.from_arrow(ds.dataset(path, filesystem=store, format="parquet", partitioning=None))
    columns = dict(zip(table.columns, map(str, table.types)))
    # A hash of every column makes DuckDB decode all pages; counts alone would be answered from the footer.
    names = ", ".join('"' + c.replace('"', '""') + '"' for c in columns)
    rows = table.aggregate(f"count(*), bit_xor(hash({names}))").fetchall()[0][0]
    return rows, columns


def main(where):
    store, root, cut = open_store(where)
    selector = fs.FileSelector(root, recursive=True)
    paths = sorted(i.path for i in store.get_file_info(selector) if i.is_file and i.path.endswith(".parquet"))
    db = duckdb.connect()
    files = []
    for path in paths:
        try:
            rows, columns = count(db, store, path)
        except Exception as e:
            raise SystemExit(f"reading {path}: {e}") from e
        files.append({"path": path.removeprefix(cut), "rows": rows, "columns": columns})
    json.dump({"rows": sum(f["rows"] for f in files), "files": files}, sys.stdout)
    print()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
